"""What a safetensors file says of itself, without reading a tensor. Standard library only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from intaglio.errors import UserError

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000


def read_safetensors_header(path: str | Path) -> dict[str, Any]:
    """The header: for each tensor `dtype`, `shape` and `data_offsets`, and perhaps `__metadata__`.

    Raises:
        UserError: not a safetensors file, or shorter than its header says.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if size < _LENGTH_BYTES or length > min(size, _MAX_HEADER_BYTES):
                raise ValueError(f"{size} bytes")
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); was the copy complete?") from error
    expected = _LENGTH_BYTES + length + max(ends, default=0)
    if size != expected:
        raise UserError(f"{path}: {size} bytes, but its header says {expected}; was the copy complete? Copy it again")
    return header


def check_readable(path: str | Path) -> None:
    """Raise a `UserError` if `path` is a damaged safetensors file; files of other kinds are not looked at."""
    if str(path).endswith(".safetensors"):
        read_safetensors_header(path)
