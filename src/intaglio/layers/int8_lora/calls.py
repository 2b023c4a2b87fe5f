"""What a layer of `int8_lora` keeps for each shape of its input: its compiled calls, laid out once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from intaglio.kernels.integer_lora import IntegerLoraCall
from intaglio.kernels.operators import watched
from intaglio.kernels.weight_product import LayerCall
from intaglio.layers import integer
from intaglio.layers.frozen import QuantizedLayer
from intaglio.layers.geometry import Conv2dGeometry, Geometry
from intaglio.layers.integer import MOST_CALLS
from intaglio.layers.patches import grad_size, is_pointwise, output_shape, window

if TYPE_CHECKING:
    from intaglio.layers.int8_lora.layer import Int8LoraLayer

Call = TypeVar("Call", LayerCall, IntegerLoraCall)


def product_call(
    shape: torch.Size, dtype: torch.dtype, layer: Int8LoraLayer, input_shape: torch.Size | None
) -> LayerCall:
    """The base's product for inputs of `shape`, stored as `dtype`; for gradients of `shape` with that of the input."""
    base = quantized(layer)
    bias = None if input_shape is not None else base.bias
    key = ("product", shape, dtype, input_shape)
    found = _kept(layer, key)
    if isinstance(found, LayerCall):
        return found
    size = None if input_shape is None else grad_size(input_shape, base.geometry)
    return _keep(layer, key, LayerCall(
        base.integer_weight(), window(base.geometry), pixels_shape(shape, base.geometry), dtype,
        groups=row_groups(shape, layer), column_scale=layer.weight_scale if size is None else input_scale(layer),
        bias=bias, grad_input_size=size,
    ))  # fmt: skip


def step_call(x: Tensor, layer: Int8LoraLayer, input_shape: torch.Size) -> IntegerLoraCall | None:
    """The layer's whole step in one call a direction, for an input or gradient `x`; None where operators make it."""
    how, base = layer.how, quantized(layer)
    shape = base.geometry
    plain = (how.activation_bits, how.gradient_bits, how.scale, how.rounding, how.granularity) == PLAIN
    if not plain or how.separate_gradient or (isinstance(shape, Conv2dGeometry) and not is_pointwise(shape)):
        return None
    if x.is_meta or x.dtype not in (torch.float32, torch.bfloat16) or not input_shape.numel() or watched():
        return None
    key = ("step", input_shape, x.dtype)
    found = _kept(layer, key)
    if not isinstance(found, IntegerLoraCall):
        found = _keep(layer, key, IntegerLoraCall(
            product_call(input_shape, x.dtype, layer, None),
            product_call(output_shape(input_shape, shape), x.dtype, layer, input_shape),
            rank=layer.rank, scaling=layer.scaling, weight_scale=layer.weight_scale, input_scale=base.input_scale,
            power_of_two=how.integer_adapter,  # the scales that INT8 pairs have already
        ))  # fmt: skip
    return found if found.fits(x) else None


PLAIN = (8, 8, "float", "nearest", "token")
"""The arithmetic that `IntegerLoraCall` is for."""


def _kept(layer: Int8LoraLayer, key: Any) -> LayerCall | IntegerLoraCall | None:
    call = layer.calls.get(key)
    if call is None or any(a is not b for a, b in zip(call.made_from, _made_from(layer), strict=True)):
        return None
    return call


def _keep(layer: Int8LoraLayer, key: Any, call: Call) -> Call:
    call.made_from = _made_from(layer)
    if len(layer.calls) >= MOST_CALLS:
        layer.calls.clear()
    layer.calls[key] = call
    return call


def _made_from(layer: Int8LoraLayer) -> tuple[object, ...]:
    base = quantized(layer)
    bias = base.bias
    of_base = base.integer_weight(), bias, integer.version(bias), base.input_scale
    return *of_base, layer.weight_scale, layer.alpha, layer.rank, layer.how


def quantized(layer: Int8LoraLayer) -> QuantizedLayer:
    assert isinstance(layer.base, QuantizedLayer)
    return layer.base


def input_scale(layer: Int8LoraLayer) -> Tensor:
    """float32 (I,): the base's, or ones."""
    base = quantized(layer)
    return layer.weight_scale.new_ones(base.geometry.in_channels) if base.input_scale is None else base.input_scale


def row_groups(shape: torch.Size, layer: Int8LoraLayer) -> int:
    """How many equal groups of the rows of an input of `shape` share a scale."""
    if layer.how.granularity == "tensor":
        return 1
    return shape[0] if isinstance(quantized(layer).geometry, Conv2dGeometry) else math.prod(shape[:-1])


def pixels_shape(shape: torch.Size, geometry: Geometry) -> tuple[int, int, int, int]:
    """(B, H, W, C) of an input of `shape`; (1, 1, tokens, C) of a Linear's."""
    if isinstance(geometry, Conv2dGeometry):
        return shape[0], shape[2], shape[3], shape[1]
    return 1, 1, math.prod(shape[:-1]), shape[-1]


def stored(dtype: torch.dtype) -> torch.dtype:
    """What the kernels store for a result of `dtype`."""
    return dtype if dtype in (torch.float32, torch.bfloat16) else torch.float32
