"""What a safetensors file says of itself, without reading a tensor. Standard library only.

Every entry is checked against the size of the file before anybody allocates what it promises.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from intaglio.errors import UserError

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
_MAX_DIMS = 8

DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "C64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}


@dataclass(frozen=True)
class TensorEntry:
    dtype: str
    """One of `DTYPE_BITS`."""
    shape: tuple[int, ...]
    start: int
    """First byte in the file."""
    num_bytes: int


@dataclass(frozen=True)
class SafetensorsHeader:
    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]


def read_safetensors_header(path: str | Path) -> SafetensorsHeader:
    """The header of a safetensors file, every entry checked.

    Raises:
        UserError: not a safetensors file, or shorter than its header says.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if size < _LENGTH_BYTES or length > min(size - _LENGTH_BYTES, _MAX_HEADER_BYTES):
                raise ValueError(f"{size} bytes")
            values = json.loads(file.read(length))
        header, end = _check(values, _LENGTH_BYTES + length)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); was the copy complete?") from error
    expected = _LENGTH_BYTES + length + end
    if size != expected:
        raise UserError(f"{path}: {size} bytes, but its header says {expected}; was the copy complete? Copy it again")
    return header


def check_readable(path: str | Path) -> None:
    """Raise a `UserError` if `path` is a damaged safetensors file; files of other kinds are not looked at."""
    if str(path).endswith(".safetensors"):
        read_safetensors_header(path)


def read_number(path: str | Path, entry: TensorEntry) -> float | None:
    """The one number of a tensor of one element; None for other tensors and for 8 bits and less."""
    formats = {"F32": "<f", "F64": "<d", "F16": "<e", "BF16": "<f", "I64": "<q", "I32": "<i", "I16": "<h"}
    if math.prod(entry.shape) != 1 or entry.dtype not in formats:
        return None
    with Path(path).open("rb") as file:
        file.seek(entry.start)
        data = file.read(entry.num_bytes)
    if entry.dtype == "BF16":  # the upper half of a float32
        data = b"\0\0" + data
    return float(struct.unpack(formats[entry.dtype], data)[0])


def _check(values: Any, data: int) -> tuple[SafetensorsHeader, int]:
    """The header and the bytes of its tensors."""
    if not isinstance(values, dict):
        raise ValueError(f"its header is a {type(values).__name__}, expected an object")
    metadata = values.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata holds something else than strings")
    tensors, spans = {}, []
    for name, entry in values.items():
        tensors[name], span = _entry(name, entry, data)
        spans.append(span)
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise ValueError(f"a gap or an overlap at byte {end} of its tensors")
        end = stop
    return SafetensorsHeader(tensors, metadata), end


def _entry(name: str, entry: Any, data: int) -> tuple[TensorEntry, tuple[int, int]]:
    if not isinstance(entry, dict):
        raise ValueError(f"{_short(name)} is no object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise ValueError(f"{_short(name)} is of dtype {_short(dtype)}")
    if not _naturals(shape) or len(shape) > _MAX_DIMS:
        raise ValueError(f"{_short(name)} is of shape {_short(shape)}")
    if not _naturals(offsets) or len(offsets) != 2:
        raise ValueError(f"{_short(name)} lies at {_short(offsets)}")
    start, stop = offsets
    if math.prod(shape) * DTYPE_BITS[dtype] != 8 * (stop - start):
        raise ValueError(f"{_short(name)}: shape {_short(shape)} of {dtype} does not take {stop - start} bytes")
    return TensorEntry(dtype, tuple(shape), data + start, stop - start), (start, stop)


def _naturals(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**62 for v in values)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
