"""What an adapter file says of itself: the entry `intaglio` in the metadata of safetensors.

Read without torch, and checked entry by entry: a file comes from anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from intaglio.errors import UserError
from intaglio.quantizers.base import Base
from intaglio.safetensors_header import read_safetensors_header

SCHEMA_VERSION = 1
METADATA_KEY = "intaglio"
LORA_FILE = "pytorch_lora_weights.safetensors"
ADAPTER_FILE = "adapter.safetensors"
PEFT_FILE = "adapter_model.safetensors"


@dataclass(frozen=True)
class Header:
    method: str
    options: dict[str, Any]
    targets: list[str] | None
    """What was asked for: ends of names, None for the method's default."""
    layers: list[str]
    """Full names of the trained layers."""
    component: str
    """"unet" or "transformer"."""
    model_class: str
    base: Base | None
    base_hash: str | None
    """`layers.quantize_model.base_hash` of the quantized base; None for a float base."""
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """The entry of the metadata."""
        return json.dumps(asdict(self))


def find_file(folder: Path) -> Path:
    """The adapter file of a folder, or the file itself when a file is given.

    Raises:
        UserError: no adapter there, or more than one.
    """
    if folder.is_file():
        return folder
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected the output folder of a training run")
    known = (ADAPTER_FILE, LORA_FILE, PEFT_FILE)
    found = [folder / name for name in known if (folder / name).is_file()]
    if not found:
        files = sorted(folder.glob("*.safetensors"))
        found = files if len(files) == 1 else []
    if not found:
        raise UserError(f"{folder}: no adapter in it; expected {', '.join(known[:-1])} or {known[-1]}")
    if len(found) > 1:
        names = " and ".join(file.name for file in found)
        raise UserError(f"{folder}: two adapters, {names}; delete one, or name the file itself")
    return found[0]


def read_header(folder: Path) -> Header | None:
    """The header of the adapter in `folder`; None for a LoRA file that another program wrote.

    Reads no tensor: cheap enough to check before any model is loaded.

    Raises:
        UserError: no readable file, or a header that no intaglio wrote.
    """
    path = find_file(folder)
    metadata = read_safetensors_header(path).metadata
    values = header_values(path, metadata)
    if values is None:
        if path.name == ADAPTER_FILE:
            raise UserError(f"{path}: no intaglio header; expected a file that intaglio saved")
        return None
    return build_header(values)


def header_values(path: Path, metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The checked values of the header as plain JSON, None where there is none. Without torch."""
    if METADATA_KEY not in metadata:
        return None
    try:
        values = json.loads(metadata[METADATA_KEY])
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: its intaglio header is no JSON ({error}); was the copy complete?") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: its intaglio header is a {type(values).__name__}, expected an object")
    if values.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema version {str(values.get('schema_version'))[:40]}, this intaglio reads {SCHEMA_VERSION}; "
            "update intaglio, or save the adapter again with this version"
        )
    wrong = [name for name, fits in _FIELDS.items() if name not in values or not fits(values[name])]
    unknown = [name for name in values if name not in _FIELDS]
    if wrong or unknown:
        what = ", ".join([*wrong, *(repr(name)[:40] for name in unknown)][:6])
        raise UserError(f"{path}: its intaglio header is not as intaglio writes it ({what}); was it edited?")
    return values


def build_header(values: Mapping[str, Any]) -> Header:
    """The header of checked values."""
    base = values["base"]
    record = None if base is None else Base(**{**base, "keep_float": tuple(base["keep_float"])})
    return Header(**{**values, "base": record})


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_base(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and value.keys() == {"format", "range_search", "keep_float"}
        and isinstance(value["format"], str)
        and value["range_search"] in ("absmax", "percentile", "mse")
        and _strings(value["keep_float"])
    )


_FIELDS = {
    "method": lambda v: isinstance(v, str),
    "options": lambda v: isinstance(v, dict),
    "targets": lambda v: v is None or _strings(v),
    "layers": _strings,
    "component": lambda v: v in ("unet", "transformer"),
    "model_class": lambda v: isinstance(v, str),
    "base": _is_base,
    "base_hash": lambda v: v is None or isinstance(v, str),
    "schema_version": lambda v: type(v) is int,
}
