"""Layers with one input, as query, key and value: it is rounded once, and saved once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from intaglio.layers.int8_lora.layer import Int8LoraLayer


def project(x: Tensor, *layers: Callable[..., Tensor]) -> list[Tensor]:
    """What each layer makes of `x`. Those of `int8_lora` that round it alike are handed what it was rounded to."""
    keys: list[Any] = [layer.rounding if isinstance(layer, Int8LoraLayer) else None for layer in layers]
    rounded: dict[Any, Any] = {}
    for key, layer in zip(keys, layers, strict=True):
        if key is not None and key not in rounded and keys.count(key) > 1:
            assert isinstance(layer, Int8LoraLayer)
            rounded[key] = layer.round(x)
    return [
        layer(x) if key is None or key not in rounded else layer(x, rounded[key])
        for key, layer in zip(keys, layers, strict=True)
    ]
