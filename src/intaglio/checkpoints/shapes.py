"""Denoisers without weights: built on the meta device from a configuration, with inputs to call them with.

For what depends on shapes alone, such as the trace of a training step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from intaglio.checkpoints.inspect import inspect_model, read_component_config
from intaglio.errors import UnknownChoice, UserError
from intaglio.families.registry import denoisers_of, families
from intaglio.families.shape import Shape
from intaglio.layers.frozen import with_weight
from intaglio.layers.names import replace
from intaglio.layers.quantize_model import BaseRecord, layers_to_quantize, set_base_record
from intaglio.quantizers.formats import parse_format
from intaglio.quantizers.quantize import QuantizedWeight


def known_shapes() -> dict[str, Shape]:
    """Configurations of released checkpoints, of all families."""
    return {shape.name: shape for family in families() for shape in family.shapes}


def shape_named(name: str) -> Shape:
    known = known_shapes()
    if name not in known:
        raise UnknownChoice("shapes", name, known)
    return known[name]


def shape_of(name_or_path: str, revision: str | None = None) -> Shape:
    """The shape of a pipeline, from its JSON files alone.

    Raises:
        UserError: no such pipeline, or a single file, which holds no configuration.
    """
    info = inspect_model(name_or_path, revision=revision)
    if info.denoiser is None or info.denoiser_class is None:
        raise UserError(
            f"{info.source}: a single file holds no configuration; give the folder or Hub id of its pipeline, or a "
            f"known shape: {', '.join(known_shapes())}"
        )
    config = read_component_config(info, info.denoiser, revision)
    vae = read_component_config(info, "vae", revision)
    pixels = 2 ** (len(vae.get("block_out_channels", (0,) * 4)) - 1)
    side = config.get("sample_size") or 128
    tokens = denoisers_of(info.denoiser_class).text_tokens
    return Shape(info.source, info.denoiser_class, config, int(side) * pixels, pixels, info.format, tokens)


def empty_denoiser(shape: Shape, format: str | None = None, keep_float: Sequence[str] | None = None) -> nn.Module:
    """The denoiser on the meta device; quantized to `format`, or to the format of a quantized folder."""
    import diffusers

    kind = getattr(diffusers, shape.denoiser_class, None)
    if kind is None:
        raise UserError(f"this diffusers ({diffusers.__version__}) has no {shape.denoiser_class}; upgrade diffusers")
    config = {k: v for k, v in shape.config.items() if k != "quantization_config"}
    with torch.device("meta"):
        model = kind.from_config(config)
    format = shape.format or format
    if format is not None:
        _quantize_empty(model, format, denoisers_of(model).keep_float if keep_float is None else keep_float)
    return model


def _quantize_empty(model: nn.Module, name: str, keep_float: Sequence[str]) -> None:
    """What `quantize_model` does, without values."""
    format = parse_format(name)
    for path in layers_to_quantize(model, keep_float):
        layer = model.get_submodule(path)
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        shape = tuple(layer.weight.shape)
        rows, reduction = shape[0], math.prod(shape[1:])
        groups = format.num_groups(reduction)
        codes = torch.empty(
            rows,
            format.row_bytes(reduction),
            dtype=torch.uint8 if format.bits == 4 else torch.int8,
            device="meta",
        )
        scale = torch.empty(rows, groups, device="meta")
        zero_point = None if format.symmetric else torch.empty(rows, groups, dtype=torch.int8, device="meta")
        replace(model, path, with_weight(layer, QuantizedWeight(codes, scale, zero_point, format, shape)))
    set_base_record(model, BaseRecord(format.name, "absmax", tuple(keep_float)))


def empty_inputs(model: nn.Module, shape: Shape, resolution: int, batch_size: int) -> dict[str, Any]:
    """Keyword arguments for one call of the denoiser, of meta tensors.

    Args:
        resolution: side of the images in pixels, a multiple of what the model cuts them into.

    Raises:
        UserError: a denoiser that takes other inputs than the known ones.
    """
    family = denoisers_of(model)
    config: Any = model.config
    multiple = shape.pixels_per_latent * family.side_multiple(config)
    if resolution % multiple:
        raise UserError(f"{shape.name} takes images of a multiple of {multiple} pixels, not {resolution}")
    side = resolution // shape.pixels_per_latent
    inputs = family.empty_inputs(config, side=side, batch=batch_size, text_tokens=shape.text_tokens)
    return {"return_dict": False, "timestep": torch.empty(batch_size, device="meta")} | inputs
