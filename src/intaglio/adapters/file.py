"""The file of an adapter: safetensors, with a header that says what it is and on which base it is exact.

LoRA kinds use the ecosystem's name and keys (`pytorch_lora_weights.safetensors`, `unet.<module>.lora_A.weight`), so
that `pipe.load_lora_weights` reads them. Scale adapters and full weights are `adapter.safetensors`, keyed by parameter.
Both carry the entry `intaglio` in the metadata of safetensors.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from intaglio.errors import UserError
from intaglio.files import write_atomic
from intaglio.layers.quantize_model import BaseRecord

SCHEMA_VERSION = 1
LORA_FILE = "pytorch_lora_weights.safetensors"
ADAPTER_FILE = "adapter.safetensors"


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
    base: BaseRecord | None
    base_hash: str | None
    """`layers.quantize_model.base_hash` of the quantized base; None for a float base."""
    schema_version: int = SCHEMA_VERSION


def find_file(folder: Path) -> Path:
    """The adapter file of a folder, or the file itself when a file is given.

    Raises:
        UserError: no adapter there, or one in each layout.
    """
    if folder.is_file():
        return folder
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected the output folder of a training run")
    found = [folder / name for name in (ADAPTER_FILE, LORA_FILE) if (folder / name).is_file()]
    if not found:
        raise UserError(f"{folder}: no adapter in it; expected {ADAPTER_FILE} or {LORA_FILE}")
    if len(found) > 1:
        raise UserError(f"{folder}: two adapters, {ADAPTER_FILE} and {LORA_FILE}; delete one, or name the file itself")
    return found[0]


def read_header(folder: Path) -> Header | None:
    """The header of the adapter in `folder`; None for a LoRA file that another program wrote.

    Reads no tensor: cheap enough to check before any model is loaded.
    """
    path = find_file(folder)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); was the copy complete?") from error
    if "intaglio" not in metadata:
        if path.name == ADAPTER_FILE:
            raise UserError(f"{path}: no intaglio header; expected a file that intaglio saved")
        return None
    values = json.loads(metadata["intaglio"])
    if values.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema version {values.get('schema_version')}, this intaglio reads {SCHEMA_VERSION}; "
            "update intaglio, or save the adapter again with this version"
        )
    base = values.pop("base")
    record = None if base is None else BaseRecord(**{**base, "keep_float": tuple(base["keep_float"])})
    return Header(**values, base=record)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors under the names of our parameters, on the CPU."""
    path = find_file(folder)
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, safe_open is no mapping
    return {_from_lora_key(k): v for k, v in tensors.items()} if path.name == LORA_FILE else tensors


def write_file(folder: Path, header: Header, tensors: dict[str, Tensor], lora: tuple[int, float] | None) -> Path:
    """Write the adapter whole or not at all, then delete one of the other layout: a folder holds one adapter.

    Args:
        lora: (rank, alpha) for the ecosystem's layout.
    """
    metadata = {"format": "pt", "intaglio": json.dumps(asdict(header))}
    # A clone of INT8 codes is their float values.
    tensors = {k: v.detach().clone().cpu().contiguous() for k, v in tensors.items()}
    if lora is None:
        path = folder / ADAPTER_FILE
    else:
        path = folder / LORA_FILE
        tensors = {_to_lora_key(header.component, k): v for k, v in tensors.items()}
        metadata["lora_adapter_metadata"] = json.dumps(_peft_metadata(header, *lora))
    write_atomic(path, lambda temporary: save_file(tensors, temporary, metadata))
    (folder / (ADAPTER_FILE if path.name == LORA_FILE else LORA_FILE)).unlink(missing_ok=True)
    return path


def _to_lora_key(component: str, name: str) -> str:
    module, _, part = name.rpartition(".")
    return f"{component}.{module}.{'lora_A' if part == 'lora_a' else 'lora_B'}.weight"


def _from_lora_key(key: str) -> str:
    module, part = key.partition(".")[2].removesuffix(".weight").rsplit(".", 1)
    return f"{module}.{part.lower()}"


def _peft_metadata(header: Header, rank: int, alpha: float) -> dict[str, Any]:
    """What diffusers builds the `peft.LoraConfig` from: without it, alpha would be lost."""
    config = {
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": header.layers,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    return {f"{header.component}.{k}": v for k, v in config.items()}
