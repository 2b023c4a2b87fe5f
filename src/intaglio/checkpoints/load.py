"""Load any diffusers pipeline, float or quantized: a Hub id, a folder, a single file, or the embedded base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline, PipelineQuantizationConfig
from packaging.version import Version
from safetensors import SafetensorError
from torch import nn

from intaglio.checkpoints.inspect import (
    DENOISERS,
    ModelInfo,
    embedded_base,
    inspect_model,
    read_component_config,
)
from intaglio.checkpoints.quantization_config import IntaglioConfig
from intaglio.checkpoints.recognize import meta_tensors
from intaglio.checkpoints.sources import weight_sources
from intaglio.errors import UserError
from intaglio.families.registry import families
from intaglio.layers.quantize_model import quantize_model
from intaglio.quantizers.base import Base, RangeSearch
from intaglio.quantizers.formats import parse_format
from intaglio.runtime.registration import register
from intaglio.safetensors_header import read_safetensors_header

__all__ = ["denoiser_of", "embedded_base", "inspect_model", "load_pipeline"]

LOADING_ERRORS = (OSError, ValueError, SafetensorError)
"""What diffusers and transformers raise for a folder that is not what it should be."""


def denoiser_of(pipeline: Any) -> tuple[str, nn.Module]:
    """("unet" or "transformer", the module)."""
    for name in DENOISERS:
        module = getattr(pipeline, name, None)
        if isinstance(module, nn.Module):
            return name, module
    raise UserError(f"{type(pipeline).__name__} has no unet and no transformer to quantize or train")


def load_pipeline(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    torch_dtype: torch.dtype | None = None,
    quantize_to: Base | str | None = None,
    range_search: RangeSearch = "mse",
    keep_float: Sequence[str] | None = None,
    single_file_config: str | None = None,
    **options: Any,
) -> Any:
    """A `DiffusionPipeline`, with a quantized denoiser if the folder holds one or `quantize_to` asks for it.

    Args:
        name_or_path: "embedded", a local folder, a .safetensors file, or a Hub id.
        revision: branch, tag or commit of a Hub id.
        variant: of the weight files, for example "fp16".
        torch_dtype: of everything that is not quantized; None means float32. The integers do not depend on it.
        quantize_to: quantize a float denoiser to this format, or as this `Base` says, while it is read, so
            that no float copy of it is held.
        range_search, keep_float: how `quantize_to` quantizes where it is a format's name; no `keep_float`: the
            family's.
        single_file_config: Hub id or folder of the pipeline that a single file belongs to; None lets diffusers guess.
        options: passed on to `from_pretrained`, for example `device_map`.

    Raises:
        UserError: nothing that can be loaded, or quantized to another format already.
    """
    register()
    info = inspect_model(name_or_path, revision=revision)
    if isinstance(quantize_to, str):
        quantize_to = Base(quantize_to, range_search, None if keep_float is None else tuple(keep_float))
    config = None if quantize_to is None else IntaglioConfig.of(quantize_to)
    if config is not None and info.format is not None:
        if parse_format(config.format) != parse_format(info.format):
            raise UserError(
                f"{info.source} is quantized to {info.format} already, not {config.format}; leave the format out, or "
                "start from the float model"
            )
        config = None
    if info.source_name not in ("intaglio", "float"):
        if config is not None:
            raise UserError(
                f"{info.source} is quantized by {info.source_name} already; leave the format out, or start from the "
                "float model"
            )
        return load_from_source(info, single_file_config, revision, torch_dtype or torch.float32, options)
    # Said even where it is the default: transformers would take the checkpoint's own, and diffusers float32.
    options |= dtype_argument(torch_dtype or torch.float32)
    try:
        if info.is_single_file:
            return _load_single_file(info, config, single_file_config, options)
        if config is not None:
            options["quantization_config"] = PipelineQuantizationConfig(quant_mapping={str(info.denoiser): config})
        where = info.source if info.folder is None else info.folder
        return DiffusionPipeline.from_pretrained(where, revision=revision, variant=variant, **options)
    except LOADING_ERRORS as error:
        raise cannot_load(info.source, error) from error


def dtype_argument(torch_dtype: torch.dtype | None) -> dict[str, Any]:
    """The argument of `from_pretrained`, which diffusers renamed."""
    if torch_dtype is None:
        return {}
    return {"dtype" if Version(diffusers.__version__) >= Version("0.42") else "torch_dtype": torch_dtype}


def cannot_load(source: str, error: BaseException) -> UserError:
    return UserError(f"{source}: cannot be loaded: {str(error).strip().splitlines()[0] if str(error) else error!r}")


def load_from_source(
    info: ModelInfo, single_file_config: str | None, revision: str | None, dtype: torch.dtype, options: dict[str, Any]
) -> Any:
    """A pipeline whose denoiser another program quantized; its layers lie as they lie in the file.

    Raises:
        UserError: a single file without the folder or Hub id of its pipeline, or weights that are not of that.
    """
    from intaglio.checkpoints.assemble import assemble

    where = info
    if info.is_single_file:
        if single_file_config is None:
            raise UserError(
                f"{info.source}: holds the denoiser alone; name the folder or Hub id of its pipeline with "
                "--single_file_config, from which the other components come"
            )
        where = inspect_model(single_file_config, revision=revision)
    config = read_component_config(where, str(where.denoiser), revision)
    model_class = getattr(diffusers, str(where.denoiser_class), None)
    if model_class is None:
        raise UserError(f"{where.source}: this diffusers has no {where.denoiser_class}; upgrade it")
    source = weight_sources()[info.source_name]
    path = Path(info.source).expanduser() if info.is_single_file else _denoiser_folder(where, revision)
    quantization = None if info.is_single_file else config.get("quantization_config")
    try:
        denoiser = assemble(model_class, config, source.weights(path, quantization), dtype)
        place = where.source if where.folder is None else where.folder
        options = {**options, **dtype_argument(dtype), str(where.denoiser): denoiser}
        return DiffusionPipeline.from_pretrained(place, revision=revision, **options)
    except LOADING_ERRORS as error:
        raise cannot_load(info.source, error) from error


def _denoiser_folder(info: ModelInfo, revision: str | None) -> Path:
    folder = info.folder or Path(DiffusionPipeline.download(info.source, revision=revision))
    return folder / str(info.denoiser)


def _load_single_file(
    info: ModelInfo, config: IntaglioConfig | None, single_file_config: str | None, options: dict[str, Any]
) -> Any:
    """Pipelines take no `quantization_config` from a single file: the denoiser is quantized layer by layer after it."""
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    path = Path(info.source).expanduser()
    kind = infer_diffusers_model_type(meta_tensors(read_safetensors_header(path)))
    known = {kind: name for family in families() for kind, name in family.single_files.items()}
    if kind not in known:
        raise UserError(f"{path}: diffusers takes it for {kind!r}; expected one of {', '.join(sorted(known))}")
    if single_file_config is not None:
        options["config"] = single_file_config
    pipeline = getattr(diffusers, known[kind]).from_single_file(str(path), **options)
    if config is not None:
        denoiser = denoiser_of(pipeline)[1]
        config.settle(denoiser)
        quantize_model(denoiser, config.record)
    return pipeline
