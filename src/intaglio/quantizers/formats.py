"""The formats in which a frozen weight lies. A format is a value, not a class."""

from __future__ import annotations

import re
from dataclasses import dataclass

from intaglio.errors import UnknownChoice, UserError

# QLoRA (Dettmers et al. 2023, appendix E): quantiles of a standard normal, scaled to [-1, 1], with an exact zero.
NF4_LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


@dataclass(frozen=True)
class Format:
    """How one weight is stored.

    Uniform: `w = scale * (code - zero_point)`, with `zero_point = 0` when symmetric.
    Codebook: `w = scale * levels[code]`.
    With a minimum, as some files of other programs have it: `w = scale * code - zero_point`, codes from 0.
    """

    name: str
    bits: int
    """Bits of a code, 4 to 8. Four lie two to a byte; 5 to 7 take a whole one: they are for sweeps and save nothing."""
    group_size: int | None
    """Consecutive weights of one output channel that share a scale; None: the whole channel."""
    symmetric: bool = True
    levels: tuple[float, ...] | None = None
    has_minimum: bool = False
    """`zero_point` is a float32 that is taken off, not an integer among the codes."""
    rotation: int | None = None
    """Input channels that are rotated together (`quantizers/rotation.py`): `w` is that of rotated inputs."""

    @property
    def code_min(self) -> int:
        # 8 bits leave -128 out: |code| <= 127 keeps products of two codes within 127**2.
        return -127 if self.bits == 8 and self.symmetric else -(2 ** (self.bits - 1))

    @property
    def code_max(self) -> int:
        return 2 ** (self.bits - 1) - 1

    def num_groups(self, reduction: int) -> int:
        """Scales per output channel when `reduction` weights feed it."""
        return 1 if self.group_size is None else -(-reduction // self.group_size)

    def row_bytes(self, reduction: int) -> int:
        """Bytes of the codes of one output channel, in memory and on disk."""
        return -(-reduction // 2) if self.bits == 4 else reduction


_PATTERN = re.compile(r"(int[4-8]|nf4)(?:_g(\d{1,6}))?(_asym|_min)?(?:_rot(\d{1,6}))?")
FORMAT_NAMES = ("int8", "int8_asym", "int7", "int6", "int5", "int4", "int4_asym", "int4_g64", "int4_g64_asym", "nf4")


def parse_format(name: str | Format) -> Format:
    """The format called `name`: `int8` to `int4`, `nf4`, with `_g<size>` for groups and `_asym` for zero points.

    Only read from files of other programs: `_min` (a float minimum a group), `_rot<size>` (rotated inputs).
    """
    if isinstance(name, Format):
        return name
    match = _PATTERN.fullmatch(name)
    if match is None:
        raise UnknownChoice("format", name, FORMAT_NAMES)
    kind, group, asymmetric = match[1], match[2], match[3] is not None
    rotation = None if match[4] is None else int(match[4])
    if rotation is not None:
        check_rotation(rotation)
    group_size = int(group) if group else (64 if kind == "nf4" else None)
    if group_size is not None and (group_size < 8 or group_size % 8):
        raise UserError(f"format {name!r}: group size {group_size}; expected a multiple of 8, for example 64")
    if kind == "nf4":
        if asymmetric:
            raise UserError("format 'nf4_asym': a codebook has no zero point; use 'nf4' or 'int4_g64_asym'")
        return Format(name, 4, group_size, True, NF4_LEVELS, rotation=rotation)
    return Format(name, int(kind[3:]), group_size, not asymmetric, None, match[3] == "_min", rotation)


def check_rotation(size: int) -> None:
    """Refuse a group that has no regular Hadamard matrix: it is 4, 16, 64, 256, ..."""
    if size < 4 or size & (size - 1) or size.bit_length() % 2 == 0:
        raise UserError(f"rotation of {size} channels; expected a power of 4, for example 256")
