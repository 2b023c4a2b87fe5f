"""The products of a frozen quantized layer in INT8 x INT8 -> INT32.

A scale on the axis that is summed over goes into the other operand before that is rounded, so that one packed weight
with a scale per output channel serves both directions (tokens in rows, `codes` the weight's INT8 codes):

    output       q(x * factor) codes^T * (row scale * weight scale) + bias      one row scale a token
    grad_input   q(dy * factor * weight scale) codes * row scale                of a convolution: a sample

Between forward and backward lie the INT8 codes of the input and, where a gradient needs it, of the output, never a
float copy of either. A convolution's result is channels-last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from intaglio.errors import UnknownChoice
from intaglio.kernels.column_sums import column_sums
from intaglio.kernels.row_quantizer import quantize_rows
from intaglio.kernels.weight_product import IntegerWeight, LayerCall, Pair
from intaglio.layers.geometry import Conv2dGeometry, Geometry
from intaglio.layers.patches import grad_size, to_pixels, window

GEMMS = ("output", "grad_input")
"""What `integer_gemms` may name."""


def check_gemms(names: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple.

    Raises:
        UnknownChoice: one is not in `GEMMS`.
    """
    for name in names:
        if name not in GEMMS:
            raise UnknownChoice("integer GEMM", name, GEMMS)
    return tuple(names)


@dataclass(frozen=True)
class Codes:
    """INT8 codes of an activation or gradient: `value ~ qdata * scale`, a scale for each of equal runs of pixels."""

    qdata: Tensor
    """int8 (B, H, W, C); a Linear's are (1, 1, tokens, C)."""
    scale: Tensor
    """float32 (G,): tokens of a Linear, samples of a Conv2d."""

    def by_sample(self, samples: int) -> Tensor:
        """The codes as (samples, tokens, C)."""
        return self.qdata.view(samples, -1, self.qdata.shape[-1])


def can(geometry: Geometry, dtype: torch.dtype) -> bool:
    """Whether these products run in integers: not for groups of channels, nor for float64, which asks for exactness."""
    grouped = isinstance(geometry, Conv2dGeometry) and geometry.groups != 1
    return not grouped and dtype != torch.float64


def to_codes(x: Tensor, geometry: Geometry, factor: Tensor | None, *, by_token: bool = False) -> Codes:
    """Round `x * factor` to INT8.

    Args:
        x: (B, ..., C), or (B, C, H, W) of a Conv2d.
        factor: float32 (C,) or one row per sample (B, C); None for 1.
        by_token: a scale for each pixel of a Conv2d too: for what no kernel's taps mix.
    """
    rows = to_pixels(x, geometry)
    convolution = isinstance(geometry, Conv2dGeometry)
    groups = rows.shape[:3].numel() if by_token or not convolution else len(rows)
    if factor is not None and factor.ndim == 1:
        factor = factor[None]
    codes, scale = quantize_rows(rows.reshape(groups, -1, rows.shape[-1]), factor)
    return Codes(codes.view(rows.shape), scale)


def output(
    base: IntegerLayer,
    x: Tensor,
    factor: Tensor | None,
    *,
    bias: Tensor | None,
    pair: Pair | None = None,
    out_factor: Tensor | None = None,
) -> tuple[Codes, Tensor, Tensor | None]:
    """`q(x * factor) codes^T * scales + bias`, in the dtype of `x`, with a low-rank pair's share added to it.

    Args:
        factor: float32 (I,) or one row per sample (B, I); None for 1.
        out_factor: float32 (O,), multiplied into the scales; None for 1.

    Returns:
        The codes of `x * factor`, the output, and what `x` became in the rank of the pair.
    """
    result = _call(base, x, None, bias)(to_pixels(_stored(x), base.geometry), _by_sample(factor), pair, out_factor)
    out = _from_pixels(result.out, base.geometry, x.shape, base.geometry.out_channels).to(x.dtype)
    return Codes(result.codes, result.scale), out, result.h


def grad_input(
    base: IntegerLayer,
    grad: Tensor,
    factor: Tensor | None,
    shape: torch.Size,
    *,
    pair: Pair | None = None,
    out_factor: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """`(grad * factor) W * input_scale` for an input of `shape`, in the dtype of `grad`, with a pair's share added.

    Args:
        factor: float32 (O,) or one row per sample (B, O); None for 1.
        out_factor: float32 (I,), multiplied into the result's scales; None for 1.
    """
    scale = base.integer_weight().scale
    call = _call(base, grad, shape, None)
    factor = scale if factor is None else factor * scale
    result = call(to_pixels(_stored(grad), base.geometry), _by_sample(factor), pair, out_factor)
    out = _from_pixels(result.out, base.geometry, shape, base.geometry.in_channels).to(grad.dtype)
    return out, result.h


class IntegerLayer(Protocol):
    """What this file needs of a quantized layer."""

    geometry: Geometry
    input_scale: Tensor | None
    calls: dict[Any, LayerCall]

    def integer_weight(self) -> IntegerWeight: ...


MOST_CALLS = 64
"""Shapes that a layer remembers: more than the aspect ratios of a run."""


def version(tensor: Tensor | None) -> int | None:
    """Another number after each writing to `tensor`; None where torch does not count: made in inference mode."""
    return None if tensor is None or tensor.is_inference() else tensor._version


def _call(base: IntegerLayer, x: Tensor, input_shape: torch.Size | None, bias: Tensor | None) -> LayerCall:
    """The layer's product for inputs like `x`; for gradients like `x` where the shape of the input is given."""
    weight = base.integer_weight()
    scale = base.input_scale
    key = (x.shape, x.dtype, x.device, input_shape, bias is None)
    made_from = (weight, bias, version(bias), scale)
    call = base.calls.get(key)
    if call is not None and all(a is b for a, b in zip(call.made_from, made_from, strict=True)):
        return call
    geometry = base.geometry
    convolution = isinstance(geometry, Conv2dGeometry)
    pixels = to_pixels(x, geometry)
    size = None
    if input_shape is not None:
        size = grad_size(input_shape, geometry)
    column_scale = weight.scale
    if size is not None:
        column_scale = x.new_ones(geometry.in_channels, dtype=torch.float32) if scale is None else scale
    call = LayerCall(
        weight,
        window(geometry),
        tuple(pixels.shape),
        _stored(x).dtype,
        groups=len(pixels) if convolution else pixels.shape[2],
        column_scale=column_scale,
        bias=bias,
        grad_input_size=size,
    )
    call.made_from = made_from
    if len(base.calls) >= MOST_CALLS:
        base.calls.clear()
    base.calls[key] = call
    return call


def _by_sample(factor: Tensor | None) -> Tensor | None:
    """(C,) or (B, C) -> (1, C) or (B, C), float32."""
    if factor is None:
        return None
    return (factor if factor.ndim == 2 else factor[None]).float()


def sum_products(a: Tensor, codes: Codes, geometry: Geometry) -> Tensor:
    """Sum over tokens of `a * codes`, float32 (B, C)."""
    rows = to_pixels(a, geometry)
    samples = len(a)
    return column_sums(rows.reshape(samples, -1, rows.shape[-1]), codes.by_sample(samples), codes.scale)


def _from_pixels(pixels: Tensor, geometry: Geometry, shape: torch.Size, channels: int) -> Tensor:
    if isinstance(geometry, Conv2dGeometry):
        return pixels.permute(0, 3, 1, 2)
    return pixels.view(*shape[:-1], channels)


def _stored(x: Tensor) -> Tensor:
    """In a dtype that the kernels take."""
    return x if x.dtype in (torch.float32, torch.bfloat16) else x.float()
