"""Copy the components of a pipeline folder as they are: same tensors, same dtype, but only safetensors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from intaglio.errors import UserError

_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".onnx", ".onnx_data", ".pb")


def copy_folder(source: Path, target: Path, variant: str | None) -> None:
    """Copy one component. Weights of `variant`, where there are some, take the place of the plain ones and their names.

    Raises:
        UserError: there are weights, but neither safetensors nor PyTorch's.
    """
    target.mkdir(parents=True)
    weights = [file for file in source.iterdir() if _is_weight(file)]
    for file in source.iterdir():
        if file.is_file() and file not in weights:
            shutil.copyfile(file, target / file.name)
    chosen = _choose(weights, variant)
    if weights and not chosen:
        raise UserError(f"{source}: {', '.join(sorted(f.name for f in weights))}; expected .safetensors weights")
    for file in chosen:
        _copy_weights(file, target / _plain_name(file.name, variant), variant)


def _is_weight(file: Path) -> bool:
    return file.suffix in _WEIGHT_SUFFIXES or ".index." in file.name


def _choose(files: list[Path], variant: str | None) -> list[Path]:
    """The files of one copy of the weights: of the variant before plain, safetensors before pickles."""
    for wanted in (variant, None):
        for suffix in (".safetensors", ".bin"):
            found = [f for f in files if _variant(f.name) == wanted and suffix in f.name]
            if found:
                return found
    return []


def _variant(name: str) -> str | None:
    """fp16 for `model.fp16.safetensors`, `model.fp16-00001-of-00002.safetensors`, `model.safetensors.index.fp16.json`.

    None for a plain name.
    """
    parts = [p for p in name.split(".")[1:] if p not in ("safetensors", "bin", "index", "json")]
    return parts[0].split("-")[0] if parts else None


def _plain_name(name: str, variant: str | None) -> str:
    if variant is not None:
        name = name.replace(f".{variant}.", ".").replace(f".{variant}-", "-")
    if ".bin" in name:  # transformers and diffusers call the same thing differently
        name = name.replace("diffusion_pytorch_model", "diffusion_model").replace("pytorch_model", "model")
        name = name.replace("diffusion_model", "diffusion_pytorch_model").replace(".bin", ".safetensors")
    return name


def _copy_weights(file: Path, target: Path, variant: str | None) -> None:
    if file.suffix == ".safetensors":
        shutil.copyfile(file, target)
    elif file.suffix == ".json":
        index = json.loads(file.read_text(encoding="utf-8"))
        index["weight_map"] = {key: _plain_name(name, variant) for key, name in index["weight_map"].items()}
        target.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    else:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
        save_file({key: value.clone().contiguous() for key, value in tensors.items()}, target, {"format": "pt"})
