"""A denoiser whose Linear and Conv2d layers are quantized in place, and what tells one such base from another."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import nn

from intaglio.errors import UserError
from intaglio.layers.frozen import QuantizedLayer, quantize_layer, to_float
from intaglio.layers.int8_lora.layer import Int8LoraLayer
from intaglio.layers.names import find_layers, is_kept, replace
from intaglio.quantizers.base import Base
from intaglio.quantizers.formats import Format, parse_format
from intaglio.runtime.memory import return_memory
from intaglio.runtime.threads import one_thread

BaseRecord = Base
"""How a model's base was quantized, with every field filled in: with it, the same base can be made again."""


def layers_to_quantize(model: nn.Module, keep_float: Sequence[str]) -> list[str]:
    """Names of the layers that a quantized base holds as integers."""
    return [name for name, layer in find_layers(model) if not is_kept(name, keep_float) and _can_quantize(layer)]


def quantize_model(
    model: nn.Module, record: BaseRecord, *, progress: Callable[[int, int], None] | None = None
) -> list[str]:
    """Quantize every Linear and Conv2d outside of `record.keep_float` in place, freeing each float weight.

    Args:
        progress: called with (layers done, layers in all).

    Returns:
        The names of the quantized layers.

    Raises:
        UserError: the model is quantized already, or a weight is not finite.
    """
    assert record.format is not None
    assert record.keep_float is not None
    format = parse_format(record.format)
    present = base_format(model)
    if present is not None:
        raise UserError(f"this {type(model).__name__} is quantized already, to {present.name}; load the float model")
    names = layers_to_quantize(model, record.keep_float)
    for done, name in enumerate(names, start=1):
        try:
            layer = cast("nn.Linear | nn.Conv2d", model.get_submodule(name))
            with one_thread():
                replace(model, name, quantize_layer(layer, format, record.range_search))
            del layer
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        if progress is not None:
            progress(done, len(names))
    set_base_record(model, record)
    return_memory()
    return names


def set_base_record(model: nn.Module, record: BaseRecord | None) -> None:
    """Say how `model` was quantized; None: that it is float again."""
    model.__dict__["_intaglio_base"] = record


def base_record(model: nn.Module) -> BaseRecord | None:
    """How the model was quantized, or None for a float model."""
    return model.__dict__.get("_intaglio_base")


def _can_quantize(layer: nn.Linear | nn.Conv2d) -> bool:
    return not isinstance(layer, nn.Conv2d) or layer.padding_mode == "zeros"


def base_format(model: nn.Module) -> Format | None:
    """The format of the model's quantized layers, None for a float model.

    Files of other programs mix formats: then it is that of the most weights.
    """
    sizes: dict[Format, int] = {}
    for _, layer in find_layers(model):
        if isinstance(layer, QuantizedLayer):
            sizes[layer.format] = sizes.get(layer.format, 0) + layer.qdata.numel()
    return max(sizes, key=lambda format: sizes[format]) if sizes else None


def base_hash(model: nn.Module) -> str:
    """SHA-256 over the names, codes and scales of all quantized layers: what an adapter must find unchanged.

    Float-kept layers are left out: they may be loaded in another dtype.
    """
    digest = hashlib.sha256()
    for name, layer in sorted(find_layers(model), key=lambda pair: pair[0]):
        if not isinstance(layer, QuantizedLayer):
            continue
        for part in ("qdata", "scale", "zero_point", "input_scale"):
            tensor = getattr(layer, part)
            if tensor is not None:
                digest.update(f"{name}.{part}{tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def hold_float_weights(model: nn.Module) -> None:
    """Put the dequantized weight in the place of frozen codes. What computes in integers keeps them."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, QuantizedLayer) and layer.compute == "float":
            parent = model.get_submodule(name.rpartition(".")[0])
            if not isinstance(parent, Int8LoraLayer):
                replace(model, name, to_float(cast("nn.Linear | nn.Conv2d", layer)))
