"""The header of a GGUF file: keys and values, names, shapes and types of tensors. Standard library only.

Source: ggml-org/ggml `docs/gguf.md`, versions 2 and 3. Every length is checked against the file before it is followed.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intaglio.errors import UserError

MAGIC = b"GGUF"
_MAX_TENSORS = 100_000
_MAX_VALUES = 10_000
_MAX_STRING = 1_000_000
_MAX_DIMS = 4
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

BLOCKS: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    30: ("BF16", 1, 2),
}
"""ggml's number of a type -> its name, values in a block, bytes of a block."""


@dataclass(frozen=True)
class GgufTensor:
    type: str
    shape: tuple[int, ...]
    """As torch has it: GGUF lists the dimensions from the last."""
    start: int
    """First byte in the file."""
    num_bytes: int


@dataclass(frozen=True)
class GgufHeader:
    values: Mapping[str, Any]
    """Numbers and strings; arrays are left out, but for those of shapes (`comfy.gguf.orig_shape.`)."""
    tensors: Mapping[str, GgufTensor]

    def types(self) -> str:
        """The types that take the most bytes, for people."""
        bytes_of = Counter[str]()
        for tensor in self.tensors.values():
            bytes_of[tensor.type] += tensor.num_bytes
        return ", ".join(name for name, _ in bytes_of.most_common(3))


def read_gguf_header(path: Path) -> GgufHeader:
    """
    Raises:
        UserError: no GGUF file, a damaged one, or types that are not known here.
    """
    try:
        with path.open("rb") as file:
            return _Reader(file, path.stat().st_size).header()
    except (OSError, ValueError, struct.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable GGUF file ({error}); was the copy complete?") from error


class _Reader:
    def __init__(self, file: Any, size: int):
        self.file, self.left, self.size = file, size, size

    def take(self, count: int) -> bytes:
        if not 0 <= count <= self.left:
            raise ValueError(f"{count} bytes at {self.size - self.left} of {self.size}")
        self.left -= count
        return self.file.read(count)

    def number(self, kind: str) -> Any:
        return struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))[0]

    def string(self) -> str:
        length = self.number("Q")
        if length > _MAX_STRING:
            raise ValueError(f"a string of {length} bytes")
        return self.take(length).decode("utf-8")

    def value(self, kind: int, keep: bool) -> Any:
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise ValueError(f"a value of type {kind}")
        inner, length = self.number("I"), self.number("Q")
        if inner in _NUMBERS:
            data = self.take(length * struct.calcsize("<" + _NUMBERS[inner]))
            return list(struct.unpack(f"<{length}{_NUMBERS[inner]}", data)) if keep and length <= _MAX_DIMS else None
        if inner != _STRING or length > self.left // 8:
            raise ValueError(f"an array of {length} values of type {inner}")
        for _ in range(length):
            self.string()
        return None

    def header(self) -> GgufHeader:
        if self.take(4) != MAGIC:
            raise ValueError("it does not begin with GGUF")
        version, num_tensors, num_values = self.number("I"), self.number("Q"), self.number("Q")
        if version not in (2, 3):
            raise ValueError(f"version {version}, expected 2 or 3")
        if num_tensors > _MAX_TENSORS or num_values > _MAX_VALUES:
            raise ValueError(f"{num_tensors} tensors and {num_values} values")
        values = {}
        for _ in range(num_values):
            key = self.string()
            values[key] = self.value(self.number("I"), ".orig_shape." in key)
        entries = [self.entry() for _ in range(num_tensors)]
        alignment = values.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= 2**20:
            raise ValueError(f"alignment {alignment!r}")
        data = -(-(self.size - self.left) // alignment) * alignment
        tensors = {name: self.place(name, dims, kind, data + offset) for name, dims, kind, offset in entries}
        if len(tensors) != len(entries):
            raise ValueError("two tensors of one name")
        return GgufHeader({k: v for k, v in values.items() if v is not None}, tensors)

    def entry(self) -> tuple[str, list[int], int, int]:
        name, count = self.string(), self.number("I")
        if count > _MAX_DIMS:
            raise ValueError(f"{name[:60]!r} has {count} dimensions")
        dims = [self.number("Q") for _ in range(count)]
        return name, dims, self.number("I"), self.number("Q")

    def place(self, name: str, dims: list[int], kind: int, start: int) -> GgufTensor:
        if kind not in BLOCKS:
            raise ValueError(f"{name[:60]!r} is of type {kind}, known are {', '.join(b[0] for b in BLOCKS.values())}")
        type_name, per_block, block_bytes = BLOCKS[kind]
        count = math.prod(dims)
        if any(d < 1 for d in dims) or (dims and dims[0] % per_block):
            raise ValueError(f"{name[:60]!r} is of shape {dims} in blocks of {per_block}")
        num_bytes = count // per_block * block_bytes
        if start + num_bytes > self.size:
            raise ValueError(f"{name[:60]!r} ends at byte {start + num_bytes} of {self.size}")
        return GgufTensor(type_name, tuple(reversed(dims)), start, num_bytes)
