"""`attach`: change a diffusers denoiser in place so that a method trains it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as with_fields
from pathlib import Path

import torch
from torch import nn

from intaglio.adapters.file import read_header
from intaglio.adapters.handle import Adapter
from intaglio.errors import UserError
from intaglio.families.registry import denoisers_of
from intaglio.layers.geometry import geometry_of
from intaglio.layers.integer_path import install_integer_path
from intaglio.layers.kinds import TimestepLayer
from intaglio.layers.names import adapter_layers, find_layers, is_kept, match_targets, replace
from intaglio.layers.quantize_model import BaseRecord, base_format, base_record, layers_to_quantize, quantize_model
from intaglio.layers.timesteps import TimestepContext, install_hook
from intaglio.methods.base import Method
from intaglio.methods.registry import build_method
from intaglio.methods.settle import Compute, Settled, settle
from intaglio.quantizers.base import Base, RangeSearch
from intaglio.runtime.memory import map_large_blocks


def attach(
    model: nn.Module,
    method: Method | None = None,
    *,
    targets: str | Sequence[str] | None = None,
    base: Base | str | None = None,
    compute: Compute = "auto",
    keep_float: Sequence[str] | None = None,
    range_search: RangeSearch | None = None,
) -> Adapter:
    """Freeze `model`, quantize it if the method needs that, and make the targets trainable.

    Args:
        model: a diffusers denoiser (U-Net or transformer), float or from a quantized folder; changed in place.
        method: what to train, for example `TuneQDM(num_intervals=4)`; None takes the device's default.
        targets: ends of names of the layers to train, as in PEFT, "attention" for the family's projections of
            attention, or "all" alone for every Linear and Conv2d; None takes the method's default. Targets never limit
            what is quantized.
        base: how the frozen base lies, for example "int4" or `Base("int4", "absmax")`; None takes the model's own, or
            what the method wishes where the model is float.
        compute: "auto" takes the fastest exact arithmetic that this device has for the base; "integer" and "float"
            force one.
        keep_float, range_search: fields of `base`, for short.

    Returns:
        The handle: `parameters()`, `save(dir)`, `load(dir)`, `merge()`, `detach()`.

    Raises:
        UserError: the model has an adapter already, is in another format, a target names no layer, or a weight is not
            finite. The model is as it was then.
    """
    if adapter_layers(model):
        raise UserError("this model has an adapter already; call detach() or merge() on its handle first")
    settled = settle(
        method,
        base=_with_shortcuts(model, base, keep_float, range_search),
        compute=compute,
        present=_present(model),
        device=_device_of(model),
        source=f"this {type(model).__name__}",
    )
    settled.warn()
    targets = [targets] if isinstance(targets, str) else targets
    chosen = _check(model, settled, targets)
    map_large_blocks()
    return _attach(model, settled, targets, chosen)


def load_adapter(model: nn.Module, folder: str | Path, *, compute: Compute = "auto") -> Adapter:
    """Attach the adapter that was saved in `folder`: its file says method, layers and base.

    Raises:
        UserError: no adapter there, or it was trained on another base.
    """
    header = read_header(Path(folder))
    if header is None:
        raise UserError(
            f"{folder}: a LoRA file without intaglio's header; load it with the pipeline's own load_lora_weights"
        )
    method = build_method(header.method, header.options)
    base = header.base if _present(model) is None else None
    # By full names: what a method trains by default may differ between versions.
    targets = None if method.trains_rest else header.layers
    adapter = attach(model, method, targets=targets, base=base, compute=compute)
    adapter.targets = header.targets
    try:
        adapter.load(folder)
    except UserError:
        if adapter_layers(model):
            adapter.detach()
        raise
    return adapter


def _attach(model: nn.Module, settled: Settled, targets: Sequence[str] | None, chosen: list[str]) -> Adapter:
    method = settled.method
    if settled.base is not None and _present(model) is None:
        with torch.no_grad():
            quantize_model(model, settled.base)
    layers = dict(find_layers(model))
    model.requires_grad_(method.trains_rest and targets is None)
    integer = settled.compute == "integer"
    install_integer_path(model, integer, integer_attention=method.attention_in_integers())
    family = denoisers_of(model)
    context = TimestepContext(family.attention_targets)
    adapted = {name: method.adapt(layers[name], context, name) for name in chosen}
    timeless = [n for n, m in adapted.items() if isinstance(m, TimestepLayer) and is_kept(n, family.shared_layers)]
    adapted = {name: module for name, module in adapted.items() if name not in timeless}
    chosen = list(adapted)
    for name, module in adapted.items():
        replace(model, name, module)
    timed = next((m for m in adapted.values() if isinstance(m, TimestepLayer)), None)
    remove_hook = None
    if timed is not None:
        remove_hook = install_hook(model, context, timed.num_intervals, family.time.from_model)
    return Adapter(model, settled, None if targets is None else list(targets), chosen, remove_hook, context)


def _check(model: nn.Module, settled: Settled, targets: Sequence[str] | None) -> list[str]:
    """The names of the layers to train; all that can go wrong with this model goes wrong here, before it is touched."""
    layers = dict(find_layers(model))
    wanted = settled.method.default_targets if targets is None else targets
    chosen = match_targets(list(layers), denoisers_of(model).spell_out(wanted))
    for name in chosen:
        geometry_of(layers[name], name)
    if settled.base is not None and _present(model) is None:
        assert settled.base.keep_float is not None
        for name in layers_to_quantize(model, settled.base.keep_float):
            weight = layers[name].weight
            if not weight.is_meta and not torch.isfinite(weight).all():
                raise UserError(f"{name}: its weight has values that are not finite; load the model again")
    return chosen


def _with_shortcuts(
    model: nn.Module, base: Base | str | None, keep_float: Sequence[str] | None, range_search: RangeSearch | None
) -> Base | None:
    if isinstance(base, str):
        base = Base(base)
    base = base or Base()
    if keep_float is not None:
        base = with_fields(base, keep_float=tuple(keep_float))
    if range_search is not None:
        base = with_fields(base, range_search=range_search)
    return base if base.keep_float is not None else with_fields(base, keep_float=denoisers_of(model).keep_float)


def _present(model: nn.Module) -> Base | None:
    """How the model is quantized, None for a float one."""
    format = base_format(model)
    if format is None:
        return None
    return base_record(model) or BaseRecord(format.name)


def _device_of(model: nn.Module) -> torch.device:
    """Where the model lies, by its first tensor."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")
