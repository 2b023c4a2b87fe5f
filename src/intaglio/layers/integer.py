"""The products of a frozen quantized layer in INT8 x INT8 -> INT32.

A scale on the axis that is summed over goes into the other operand before that is rounded, so that one packed weight
with a scale per output channel serves both directions (tokens in rows, `codes` the weight's INT8 codes):

    output       q(x * factor) codes^T * (row scale * weight scale) + bias      one row scale a token
    grad_input   q(dy * factor * weight scale) codes * row scale                of a convolution: a sample

Between forward and backward lie the INT8 codes of the input and, where a gradient needs it, of the output, never a
float copy of either. A convolution's result is channels-last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from intaglio.errors import UnknownChoice
from intaglio.kernels.column_sums import column_sums
from intaglio.kernels.row_quantizer import quantize_rows
from intaglio.kernels.weight_product import IntegerWeight, Window, weight_product
from intaglio.layers.geometry import Conv2dGeometry, Geometry

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
    rows = _pixels(x, geometry)
    convolution = isinstance(geometry, Conv2dGeometry)
    groups = rows.shape[:3].numel() if by_token or not convolution else len(rows)
    if factor is not None and factor.ndim == 1:
        factor = factor[None]
    codes, scale = quantize_rows(rows.reshape(groups, -1, rows.shape[-1]), factor)
    return Codes(codes.view(rows.shape), scale)


def output(
    x: Codes, geometry: Geometry, weight: IntegerWeight, bias: Tensor | None, shape: torch.Size, dtype: torch.dtype
) -> Tensor:
    """`x codes^T * scales + bias`, for an input of `shape`."""
    result = weight_product(
        x.qdata,
        weight,
        _window(geometry),
        row_scale=x.scale,
        column_scale=weight.scale,
        bias=bias,
        dtype=_stored(dtype),
    )
    return _from_pixels(result, geometry, shape, geometry.out_channels).to(dtype)


def grad_input(
    grad: Tensor,
    geometry: Geometry,
    weight: IntegerWeight,
    factor: Tensor | None,
    shape: torch.Size,
    scale: Tensor | None,
) -> Tensor:
    """`(grad * factor) W * scale` for an input of `shape`, in the dtype of `grad`.

    Args:
        factor: float32 (O,) or one row per sample (B, O); None for 1.
        scale: float32 (I,), None for 1.
    """
    codes = to_codes(grad, geometry, weight.scale if factor is None else factor * weight.scale)
    size = (shape[2], shape[3]) if isinstance(geometry, Conv2dGeometry) else (1, math.prod(shape[:-1]))
    result = weight_product(
        codes.qdata,
        weight,
        _window(geometry),
        row_scale=codes.scale,
        column_scale=grad.new_ones(geometry.in_channels, dtype=torch.float32) if scale is None else scale,
        grad_input_size=size,
        dtype=_stored(grad.dtype),
    )
    return _from_pixels(result, geometry, shape, geometry.in_channels).to(grad.dtype)


def sum_products(a: Tensor, codes: Codes, geometry: Geometry) -> Tensor:
    """Sum over tokens of `a * codes`, float32 (B, C)."""
    rows = _pixels(a, geometry)
    samples = len(a)
    return column_sums(rows.reshape(samples, -1, rows.shape[-1]), codes.by_sample(samples), codes.scale)


def _pixels(x: Tensor, geometry: Geometry) -> Tensor:
    """(B, H, W, C); (1, 1, tokens, C) of a Linear."""
    if isinstance(geometry, Conv2dGeometry):
        return x.permute(0, 2, 3, 1)
    return x.reshape(1, 1, -1, x.shape[-1])


def _from_pixels(pixels: Tensor, geometry: Geometry, shape: torch.Size, channels: int) -> Tensor:
    if isinstance(geometry, Conv2dGeometry):
        return pixels.permute(0, 3, 1, 2)
    return pixels.view(*shape[:-1], channels)


def _window(geometry: Geometry) -> Window:
    if isinstance(geometry, Conv2dGeometry):
        return Window(geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation)
    return Window()


def _stored(dtype: torch.dtype) -> torch.dtype:
    """What the kernels store for a result of `dtype`."""
    return dtype if dtype in (torch.float32, torch.bfloat16) else torch.float32
