"""Quantize a pipeline into a folder, and save one that is quantized in memory."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from torch import nn

from intaglio.checkpoints.checkpoint import read_safetensors_header
from intaglio.checkpoints.components import copy_folder
from intaglio.checkpoints.diffusers_quantizer import check_no_adapter
from intaglio.checkpoints.inspect import ModelInfo, inspect_model
from intaglio.checkpoints.load import LOADING_ERRORS, cannot_load, denoiser_of, dtype_argument, load_pipeline
from intaglio.checkpoints.quantization_config import IntaglioConfig, describe
from intaglio.errors import UserError
from intaglio.files import new_folder
from intaglio.layers.frozen import QuantizedLayer
from intaglio.layers.names import find_layers
from intaglio.layers.quantize_model import base_hash, base_record
from intaglio.quantizers.ranges import RangeSearch

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class QuantizeReport:
    out: Path
    format: str
    base_hash: str
    num_layers: int
    """Quantized ones."""
    float32_bytes: int
    """What the quantized weights take in float32."""
    quantized_bytes: int
    """What they take now: codes, scales and zero points."""
    denoiser_bytes: int
    """The weight files of the denoiser, with all that stayed float."""
    seconds: float
    peak_memory_bytes: int
    """Of this process, since it started."""

    @property
    def ratio(self) -> float:
        """Weight files to the float32 size of what was quantized: under .16 for 4 bits, under .29 for 8."""
        return self.denoiser_bytes / self.float32_bytes


def quantize_pipeline(
    model: str | Path,
    out: str | Path,
    *,
    format: str = "int4",
    range_search: RangeSearch = "mse",
    keep_float: Sequence[str] | None = None,
    torch_dtype: torch.dtype | None = None,
    revision: str | None = None,
    variant: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> QuantizeReport:
    """Quantize the denoiser of `model` weight by weight into the new folder `out`; copy the other components unchanged.

    Args:
        model: "embedded", a local folder, a .safetensors file, or a Hub id.
        torch_dtype: of the denoiser's float layers in the folder; None keeps the checkpoint's own.
        overwrite: replace a folder that is there. The old one goes only when the new one is complete.
        progress: called with (layers done, layers in all).

    Raises:
        UserError: the model cannot be used or is quantized already, or `out` is not empty.
    """
    started = time.perf_counter()
    out = Path(out)
    config = IntaglioConfig(format, range_search, keep_float)
    config.progress = progress
    info = inspect_model(model, revision=revision)
    if info.format is not None:
        raise UserError(f"{info.source} is quantized to {info.format} already; start from the float model")
    _check_target(out, overwrite, info.folder)
    if info.is_single_file:
        pipeline = load_pipeline(
            model, torch_dtype=torch_dtype, quantize_to=format, range_search=range_search, keep_float=keep_float
        )
        name, denoiser = denoiser_of(pipeline)
        save_quantized(pipeline, out, overwrite=overwrite)
    else:
        folder = info.folder or _download(info, revision, variant)
        name, denoiser = str(info.denoiser), _read_quantized(info, folder, config, torch_dtype, variant)
        with new_folder(out) as temporary:
            _copy_rest(folder, temporary, name, variant)
            denoiser.save_pretrained(temporary / name, safe_serialization=True)
    return _report(out, name, denoiser, format, started)


def save_quantized(pipeline: Any, out: str | Path, *, overwrite: bool = False) -> Path:
    """Write a pipeline whose denoiser is quantized in memory, for example after `attach` and `merge`.

    Raises:
        UserError: the denoiser is float or has an adapter on it, or `out` is not empty.
    """
    out = Path(out)
    _, denoiser = denoiser_of(pipeline)
    record = base_record(denoiser)
    if record is None:
        raise UserError(
            f"this {type(denoiser).__name__} is not quantized; use quantize_pipeline, or the pipeline's save_pretrained"
        )
    check_no_adapter(denoiser.state_dict())
    _check_target(out, overwrite, None)
    describe(denoiser, IntaglioConfig.of(record))
    with new_folder(out) as temporary:
        pipeline.save_pretrained(temporary, safe_serialization=True)
    return out


def _check_target(out: Path, overwrite: bool, source: Path | None) -> None:
    if out.is_file():
        raise UserError(f"{out}: a file is in the way; name a new folder")
    if source is not None and out.resolve() == source.resolve():
        raise UserError(f"{out} is the model itself; name another folder for the quantized one")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise UserError(f"{out} is not empty; name a new folder, or pass overwrite to replace it")


def _download(info: ModelInfo, revision: str | None, variant: str | None) -> Path:
    try:
        return Path(DiffusionPipeline.download(info.source, revision=revision, variant=variant))
    except LOADING_ERRORS as error:
        raise cannot_load(info.source, error) from error


def _read_quantized(
    info: ModelInfo, folder: Path, config: IntaglioConfig, torch_dtype: torch.dtype | None, variant: str | None
) -> Any:
    model_class = getattr(diffusers, str(info.denoiser_class), None)
    if model_class is None:
        raise UserError(f"{info.source}: diffusers {diffusers.__version__} knows no {info.denoiser_class}; update it")
    dtype = torch_dtype or _checkpoint_dtype(folder / str(info.denoiser), variant)
    try:
        return model_class.from_pretrained(
            folder, subfolder=info.denoiser, variant=variant, quantization_config=config, **dtype_argument(dtype)
        )
    except LOADING_ERRORS as error:
        raise cannot_load(info.source, error) from error


def _checkpoint_dtype(folder: Path, variant: str | None) -> torch.dtype | None:
    """The dtype of all tensors, None (which loads as float32) where they are not alike or not safetensors."""
    kinds = set()
    for file in folder.glob("*.safetensors"):
        if (variant is None) == (file.name.count(".") == 1) and (variant is None or f".{variant}" in file.name):
            header = read_safetensors_header(file)
            kinds |= {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
    return _DTYPES.get(kinds.pop()) if len(kinds) == 1 else None


def _copy_rest(folder: Path, target: Path, denoiser: str, variant: str | None) -> None:
    """All that the pipeline's index names, but the denoiser; and the licence, which goes where the weights go."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    shutil.copyfile(folder / "model_index.json", target / "model_index.json")
    for file in folder.glob("LICENSE*"):
        shutil.copyfile(file, target / file.name)
    for name, value in index.items():
        if isinstance(value, list) and name != denoiser and (folder / name).is_dir():
            copy_folder(folder / name, target / name, variant)


def _report(out: Path, name: str, denoiser: nn.Module, format: str, started: float) -> QuantizeReport:
    layers = [layer for _, layer in find_layers(denoiser) if isinstance(layer, QuantizedLayer)]
    return QuantizeReport(
        out=out,
        format=format,
        base_hash=base_hash(denoiser),
        num_layers=len(layers),
        float32_bytes=sum(4 * torch.Size(layer.weight_shape).numel() for layer in layers),
        quantized_bytes=sum(buffer.nbytes for layer in layers for buffer in layer.buffers()),
        denoiser_bytes=sum(file.stat().st_size for file in (out / name).glob("*.safetensors")),
        seconds=time.perf_counter() - started,
        peak_memory_bytes=_peak_memory_bytes(),
    )


def _peak_memory_bytes() -> int:
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset  # pyright: ignore[reportAttributeAccessIssue]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
