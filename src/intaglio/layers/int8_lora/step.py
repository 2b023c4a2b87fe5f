"""The step of a layer of `int8_lora` under autograd: eight products in integers.

Where the arithmetic is the default one, each direction is one compiled call (`kernels/integer_lora`); everywhere else,
and wherever something watches the operators, it is these operators one after the other, with the same result.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from intaglio.errors import UserError
from intaglio.kernels.codes import codes_by_group, pair_codes
from intaglio.kernels.low_rank import low_rank_update, rank_product, token_gradient
from intaglio.kernels.row_quantizer import quantize_rows
from intaglio.kernels.weight_product import IntegerWeight, weight_product
from intaglio.layers.codes_tensor import CodesTensor
from intaglio.layers.geometry import Conv2dGeometry
from intaglio.layers.int8_lora.calls import (
    input_scale,
    product_call,
    quantized,
    row_groups,
    step_call,
    stored,
)
from intaglio.layers.patches import (
    channels_last_rows,
    from_channels_last_rows,
    grad_size,
    is_pointwise,
    output_shape,
    pixels,
    to_pixels,
    unfold,
    window,
)
from intaglio.quantizers.activations import quantize_groups, seed_of
from intaglio.quantizers.quantize import to_rows

if TYPE_CHECKING:
    from intaglio.layers.int8_lora.layer import Int8LoraLayer, IntegerArithmetic

ADAPTER_BITS = 8


@dataclass
class RoundedInput:
    """INT8 codes (rows, I) of a layer's input, their scales (groups,): given, or filled in by the first who rounds."""

    codes: Tensor | None = None
    scale: Tensor | None = None


class _Rounded(NamedTuple):
    """Codes (rows, C) of an input or gradient, their scales (groups,), and perhaps the base's product with them."""

    codes: Tensor
    scale: Tensor
    out: Tensor | None = None


class _Pair(NamedTuple):
    a: Tensor
    """int8 (r, K), of alpha / rank A."""
    a_scale: Tensor
    b: Tensor
    """int8 (N, r), of B over the weight's scales, or of B."""
    b_scale: Tensor


class IntegerStep(torch.autograd.Function):
    """Output and gradients of one layer. Saves x as INT8 and h as INT32, (K + 4 r) bytes a token. Names are those of
    `quantizers/integer_step.py`."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, rounded: RoundedInput, lora_a: Tensor, lora_b: Tensor, layer: Int8LoraLayer
    ) -> Tensor:
        call = step_call(x, layer, x.shape)
        if call is None:
            y, h = _output(x, rounded, lora_a, lora_b, layer)
        else:
            given = None if rounded.codes is None or rounded.scale is None else (rounded.codes, rounded.scale)
            a, b = _float(lora_a).view(layer.rank, -1), _float(lora_b)
            x_pixels = to_pixels(x, quantized(layer).geometry)
            rounded.codes, rounded.scale, h, y, finite = call.forward(x_pixels, given, a, b)
            if not finite:
                _refuse("input", layer)
        ctx.layer, ctx.input_shape = layer, x.shape
        ctx.save_for_backward(rounded.codes, rounded.scale, h, lora_a, lora_b)
        shape = quantized(layer).geometry
        return from_channels_last_rows(y, output_shape(x.shape, shape), shape).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_codes, x_scale, h, lora_a, lora_b = ctx.saved_tensors
        layer, input_shape, need_x = ctx.layer, ctx.input_shape, ctx.needs_input_grad[0]
        shape = quantized(layer).geometry
        call = step_call(grad, layer, input_shape)
        if call is None:
            grad_x, da, db = _gradients(grad, x_codes, x_scale, h, lora_a, lora_b, layer, input_shape, need_x)
        else:
            a, b = _float(lora_a).view(layer.rank, -1), _float(lora_b)
            grad_x, da, db, finite = call.backward(to_pixels(grad, shape), x_codes, x_scale, h, a, b, need_x=need_x)
            if not finite:
                _refuse("gradient", layer)
        if grad_x is not None:
            grad_x = from_channels_last_rows(grad_x, input_shape, shape).to(grad.dtype)
        return grad_x, None, from_rows_like(da, lora_a), db.view(lora_b.shape), None


def _output(
    x: Tensor, rounded: RoundedInput, lora_a: Tensor, lora_b: Tensor, layer: Int8LoraLayer
) -> tuple[Tensor, Tensor]:
    """The output (B, H, W, O) and h = x a^T, int32 (M, r), by operators. Fills in `rounded`."""
    base, how = quantized(layer), layer.how
    shape, y = base.geometry, None
    if rounded.codes is None or rounded.scale is None:
        made = _round_and_multiply(x, base.input_scale, how.activation_bits, layer, None)
        rounded.codes, rounded.scale, y = made
        _check_finite(made.scale, "input", layer)
    codes, scale = rounded.codes, rounded.scale
    pair = _codes_of_pair(lora_a, lora_b, layer)
    with _no_autocast(x):
        if y is None:
            y = product_call(x.shape, stored(x.dtype), layer, None).of_codes(pixels(codes, x.shape, shape), scale)
        h = low_rank_update(
            y.view(-1, shape.out_channels),
            unfold(codes, x.shape, shape),
            pair.a,
            pair.b,
            row_scale=scale,
            first_scale=pair.a_scale,
            second_scale=pair.b_scale,
            column_scale=None if how.separate_gradient else layer.weight_scale,
            bits=how.activation_bits,
            power_of_two=how.power_of_two,
        )
    return y, h


def _gradients(
    grad: Tensor,
    x_codes: Tensor,
    x_scale: Tensor,
    h: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    layer: Int8LoraLayer,
    input_shape: torch.Size,
    need_x: bool,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients of x (B, H, W, I), of A (r, K) and of B (O, r), by operators."""
    base, how = quantized(layer), layer.how
    shape, bits, groups = base.geometry, how.gradient_bits, x_scale.shape[0]
    seed = seed_of(channels_last_rows(grad, shape)) if how.rounding == "stochastic" else None
    if need_x:
        g = _round_and_multiply(grad, layer.weight_scale, bits, layer, input_shape, seed)
    else:
        g = _Rounded(*_round_rows(channels_last_rows(grad, shape), layer.weight_scale, bits, groups, how, seed))
    if grad.dtype != torch.float16:  # a GradScaler looks for what is not finite, and skips the step
        _check_finite(g.scale, "gradient", layer)
    own, own_scale = g.codes, g.scale
    if how.separate_gradient:
        own, own_scale = _round_rows(channels_last_rows(grad, shape), None, bits, groups, how, _plus(seed, 3))
    pair = _codes_of_pair(lora_a, lora_b, layer)
    grad_x, gh = None, None
    if need_x:
        grad_x, gh = _grad_input(g, own, own_scale, pair, layer, input_shape, stored(grad.dtype))
    else:
        gh = rank_product(own, pair.b.T)
    scales = {"left_scale": x_scale, "right_scale": own_scale, "bits": bits, "power_of_two": how.power_of_two}
    divisor = None if how.separate_gradient else layer.weight_scale
    db = token_gradient(
        h, own, rank_scale=pair.a_scale, divisor=divisor, seed=_plus(seed, 1), transposed=True, **scales
    )
    patches = unfold(x_codes, input_shape, shape)
    da = token_gradient(gh, patches, rank_scale=pair.b_scale, multiplier=layer.scaling, seed=_plus(seed, 2), **scales)
    return grad_x, da, db


def _codes_of_pair(lora_a: Tensor, lora_b: Tensor, layer: Int8LoraLayer) -> _Pair:
    """Made anew in each direction: nearest rounding makes the same, and keeping them costs r (K + O) bytes a layer."""
    how = layer.how
    return _Pair(
        *pair_codes(
            to_rows(_float(lora_a)),
            _float(lora_b).flatten(1),
            ADAPTER_BITS,
            power_of_two=how.power_of_two or how.integer_adapter,  # the scales that INT8 pairs have already
            scaling=layer.scaling,
            divisor_O=None if how.separate_gradient else layer.weight_scale,
        )
    )


def _round_and_multiply(
    x: Tensor,
    factor: Tensor | None,
    bits: int,
    layer: Int8LoraLayer,
    input_shape: torch.Size | None,
    seed: Tensor | None = None,
) -> _Rounded:
    """Codes of `x * factor`; with the base's product where one call makes both: 8 bits, float scales, a scale a token.

    `input_shape` asks for the product of a gradient `x`, for an input of that shape.
    """
    how, shape = layer.how, quantized(layer).geometry
    plain = bits == 8 and not how.power_of_two and seed is None and how.granularity == "token"
    if plain and x.dtype in (torch.float32, torch.bfloat16):
        found = product_call(x.shape, x.dtype, layer, input_shape)(
            to_pixels(x, shape), None if factor is None else factor[None]
        )
        return _Rounded(found.codes.view(-1, found.codes.shape[3]), found.scale, found.out)
    return _Rounded(*_round_rows(channels_last_rows(x, shape), factor, bits, row_groups(x.shape, layer), how, seed))


def _grad_input(
    g: _Rounded,
    own: Tensor,
    own_scale: Tensor,
    pair: _Pair,
    layer: Int8LoraLayer,
    input_shape: torch.Size,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The gradient of the input, (B, H, W, I), and gh = own b, int32 (M, r)."""
    base, how = quantized(layer), layer.how
    shape = base.geometry
    given = output_shape(input_shape, shape)
    codes, dx = pixels(g.codes, given, shape), g.out
    if dx is None:
        dx = product_call(given, dtype, layer, input_shape).of_codes(codes, g.scale)
    if not isinstance(shape, Conv2dGeometry) or is_pointwise(shape):
        gh = low_rank_update(
            dx.view(-1, shape.in_channels),
            own,
            pair.b.T,
            pair.a.T,
            row_scale=own_scale,
            first_scale=pair.a_scale,
            second_scale=pair.b_scale,
            column_scale=base.input_scale,
            bits=how.gradient_bits,
            power_of_two=how.power_of_two,
        )
        return dx, gh
    gh = rank_product(own, pair.b.T)
    rank_scale = pair.a_scale.double() * pair.b_scale.double()
    real = gh.double() * (own_scale.double().repeat_interleave(len(gh) // len(own_scale))[:, None] * rank_scale)
    gh_codes, gh_scale = quantize_groups(real, how.gradient_bits, len(own_scale), power_of_two=how.power_of_two)
    taps = shape.kernel_size[0] * shape.kernel_size[1]
    a = IntegerWeight(
        pair.a, (layer.rank, taps, shape.in_channels), pair.a_scale, None, None, None, max(1, pair.a.shape[1])
    )
    update = weight_product(
        gh_codes.view(*codes.shape[:3], layer.rank),
        a,
        window(shape),
        row_scale=gh_scale[:, 0].float(),
        column_scale=input_scale(layer),
        grad_input_size=grad_size(input_shape, shape),
        dtype=dtype,
    )
    return dx.add_(update), gh


def from_rows_like(rows: Tensor, like: Tensor) -> Tensor:
    """(r, K) with taps before channels -> the shape of `like`, (r, I) or (r, I, kh, kw)."""
    if like.ndim == 2:
        return rows
    rank, channels, height, width = like.shape
    return rows.view(rank, height, width, channels).permute(0, 3, 1, 2).contiguous()


def _round_rows(
    rows: Tensor, factor: Tensor | None, bits: int, groups: int, how: IntegerArithmetic, seed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Codes of `rows * factor` and a scale a group, float32 (groups,); by the quicker quantizer where it does."""
    if bits == 8 and not how.power_of_two and seed is None:
        codes, scale = quantize_rows(rows.view(groups, -1, rows.shape[1]), None if factor is None else factor[None])
        return codes.view(rows.shape), scale
    codes, scale = codes_by_group(rows, bits, groups, power_of_two=how.power_of_two, factor_C=factor, seed=seed)
    return codes, scale[:, 0]


def _float(parameter: Tensor) -> Tensor:
    return parameter.values() if isinstance(parameter, CodesTensor) else parameter.detach()


def _no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Exact products in float32, where there are no compiled ones, must not become bfloat16."""
    kind = "cpu" if x.is_meta else x.device.type  # there is no autocast for meta
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _plus(seed: Tensor | None, offset: int) -> Tensor | None:
    return None if seed is None else seed + offset


def _check_finite(scale: Tensor, what: str, layer: Int8LoraLayer) -> None:
    if not scale.is_meta and not math.isfinite(scale.sum()) and not torch.isfinite(scale).all():
        _refuse(what, layer)


def _refuse(what: str, layer: Int8LoraLayer) -> None:
    raise UserError(
        f"{layer.name}: its {what} has values that are not finite, which no integer stands for. Try a lower "
        "learning_rate, or mixed_precision = 'no'"
    )
