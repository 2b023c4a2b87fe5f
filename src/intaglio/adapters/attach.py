"""`attach`: change a diffusers denoiser in place so that a method trains it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as with_fields
from pathlib import Path

import torch
from torch import nn

from intaglio.adapters.handle import Adapter
from intaglio.adapters.header import read_header
from intaglio.errors import UserError
from intaglio.layers.integer_path import install_integer_path
from intaglio.layers.kinds import TimestepLayer
from intaglio.layers.model import (
    KEEP_FLOAT,
    BaseRecord,
    adapter_layers,
    base_format,
    find_layers,
    match_targets,
    quantize_model,
    replace,
)
from intaglio.layers.timesteps import TimestepContext, install_hook, timestep_range
from intaglio.methods.base import Method
from intaglio.methods.registry import build_method
from intaglio.quantizers.formats import parse_format
from intaglio.quantizers.ranges import RangeSearch
from intaglio.runtime.memory import map_large_blocks


def attach(
    model: nn.Module,
    method: Method,
    *,
    targets: Sequence[str] | None = None,
    keep_float: Sequence[str] = KEEP_FLOAT,
    range_search: RangeSearch = "mse",
) -> Adapter:
    """Freeze `model`, quantize it if the method needs that, and make the targets trainable.

    Args:
        model: a diffusers denoiser (U-Net or transformer), float or from a quantized folder; changed in place.
        method: what to train, for example `TuneQDM(base="int4", num_intervals=4)`.
        targets: ends of names of the layers to train, as in PEFT, or "all" alone for every Linear and Conv2d; None
            takes the method's default. Targets never limit what is quantized.
        keep_float: starts of names of layers that are not quantized. Read only where this call quantizes.
        range_search: how the range of each channel or group is found. Read only where this call quantizes.

    Returns:
        The handle: `parameters()`, `save(dir)`, `load(dir)`, `merge()`, `detach()`.

    Raises:
        UserError: the model has an adapter already, is in another format, or a target names no layer.
    """
    if adapter_layers(model):
        raise UserError("this model has an adapter already; call detach() or merge() on its handle first")
    map_large_blocks()
    method = _settle_base(model, method, keep_float, range_search)
    layers = dict(find_layers(model))
    chosen = match_targets(list(layers), method.default_targets if targets is None else targets)
    model.requires_grad_(method.trains_rest and targets is None)

    install_integer_path(model, method.frozen_integer_gemms(), integer_attention=method.attention_in_integers())
    context = TimestepContext()
    adapted = {name: method.adapt(layers[name], context, name) for name in chosen}
    for name, module in adapted.items():
        replace(model, name, module)
    timed = next((m for m in adapted.values() if isinstance(m, TimestepLayer)), None)
    remove_hook = None
    if timed is not None:
        remove_hook = install_hook(model, context, timed.num_intervals, timestep_range(model))
    return Adapter(model, method, None if targets is None else list(targets), chosen, remove_hook)


def load_adapter(model: nn.Module, folder: str | Path) -> Adapter:
    """Attach the adapter that was saved in `folder`: its file says method, targets and base.

    Raises:
        UserError: no adapter there, or it was trained on another base.
    """
    header = read_header(Path(folder))
    if header is None:
        raise UserError(
            f"{folder}: a LoRA file without intaglio's header; load it with the pipeline's own load_lora_weights"
        )
    method = build_method(header.method, header.options)
    if header.base is None:
        adapter = attach(model, method, targets=header.targets)
    else:
        adapter = attach(
            model,
            method,
            targets=header.targets,
            keep_float=header.base.keep_float,
            range_search=header.base.range_search,
        )
    try:
        adapter.load(folder)
    except UserError:
        if adapter_layers(model):
            adapter.detach()
        raise
    return adapter


def _settle_base(model: nn.Module, method: Method, keep_float: Sequence[str], range_search: RangeSearch) -> Method:
    """Quantize the model if the method needs it and it is float; return the method with its base filled in."""
    present = base_format(model)
    if not method.needs_base:
        if present is not None:
            raise UserError(
                f"method {method.name} trains beside float weights, but this model is quantized to {present.name}. "
                "Load the float model, or use qlora, peqa or tuneqdm"
            )
        return method
    wanted: str | None = method.base  # type: ignore[attr-defined]
    if present is None:
        wanted = wanted or method.default_base
        with torch.no_grad():
            quantize_model(model, BaseRecord(parse_format(wanted).name, range_search, tuple(keep_float)))
    elif wanted is not None and parse_format(wanted) != present:
        raise UserError(
            f"the method asks for base {wanted!r}, but this model is quantized to {present.name!r}; leave base out, or "
            "load a model of that format"
        )
    return with_fields(method, base=wanted or present.name)  # type: ignore[union-attr, call-arg]
