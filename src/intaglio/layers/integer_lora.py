"""A low-rank pair beside a quantized weight, with all eight products of a step in INT8 x INT8 -> INT32.

After CDM-QTA (Lu et al., ISCAS 2025). `quantizers/integer_step.py` defines every integer of a step; with power-of-two
scales this layer equals it bit for bit, and with float scales it computes the same with a finer grid.
"""

from __future__ import annotations

import math
import weakref
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from intaglio.errors import UserError
from intaglio.kernels.codes import codes_by_group, pair_codes
from intaglio.kernels.int8_matmul import MAX_REDUCTION
from intaglio.kernels.low_rank import low_rank_update, rank_product, token_gradient
from intaglio.kernels.row_quantizer import quantize_rows
from intaglio.kernels.weight_product import IntegerWeight, LayerCall, weight_product
from intaglio.layers.codes_tensor import CodesTensor
from intaglio.layers.frozen import QuantizedLayer, compute_input
from intaglio.layers.geometry import Conv2dGeometry, Geometry
from intaglio.layers.low_rank import LowRankLayer
from intaglio.layers.patches import (
    channels_last_rows,
    from_channels_last_rows,
    is_pointwise,
    output_shape,
    pixels,
    unfold,
    window,
)
from intaglio.quantizers.activations import quantize_groups, seed_of
from intaglio.quantizers.formats import Format
from intaglio.quantizers.packing import unpack_nibbles
from intaglio.quantizers.quantize import to_rows

ADAPTER_BITS = 8


@dataclass(frozen=True, kw_only=True)
class IntegerArithmetic:
    """How the tensors of a step become integers."""

    activation_bits: int = 8
    """Bits of x and of h = x a^T, 2 .. 8."""
    gradient_bits: int = 8
    """Bits of the gradient of the output and of gh = g b, 2 .. 8."""
    rounding: Literal["nearest", "stochastic"] = "nearest"
    """Of the operands that are summed over tokens in the adapter's gradients; all others round to nearest."""
    scale: Literal["float", "power_of_two"] = "float"
    granularity: Literal["token", "tensor"] = "token"
    """What of x, g, h and gh shares a scale: a token (all of a sample in a convolution, whose taps mix tokens), or
    everything."""
    integer_adapter: bool = False
    """Hold the pair as INT8 codes (`CodesTensor`)."""
    separate_gradient: bool = False
    """Quantize g a second time, without the weight's scales, for the adapter's two gradients; `b` is then in its own
    units. Costs a pass over g and a product of its own for `gh`, see docs/int8_lora.md."""

    @property
    def power_of_two(self) -> bool:
        return self.scale == "power_of_two"


class IntegerLoraLayer(LowRankLayer):
    """`LowRankLayer` over a quantized base, in integers. Parameters, file and merging are the same."""

    fixed_dtype = ("lora_a", "lora_b", "weight_scale")
    weight_scale: Tensor
    """float32 (N,): the base's scales."""

    def __init__(self, base: nn.Linear | nn.Conv2d, rank: int, alpha: float, how: IntegerArithmetic, name: str = ""):
        """`name` is what errors call the layer."""
        super().__init__(base, rank, alpha)
        assert isinstance(base, QuantizedLayer)
        check_format(base.format)
        self.how, self.name = how, name or type(base).__name__
        _, reduction = to_rows(self.lora_a).shape
        longest = max(reduction, base.geometry.out_channels * reduction // base.geometry.in_channels)
        if longest > MAX_REDUCTION:
            raise UserError(
                f"{self.name} sums {longest:,} products, which INT32 may not hold (at most {MAX_REDUCTION:,}); "
                "leave it out of targets"
            )
        self.register_buffer("weight_scale", _weight_scale(base), persistent=False)
        self.calls: dict[Any, LayerCall] = {}
        if how.integer_adapter:
            self.lora_a = nn.Parameter(CodesTensor.of(self.lora_a.detach(), 0))
            self.lora_b = nn.Parameter(CodesTensor.of(self.lora_b.detach(), 1))

    def forward(self, x: Tensor) -> Tensor:
        inside = compute_input(x)
        return IntegerStep.apply(inside, _rounded_input(x, inside, self), self.lora_a, self.lora_b, self)


def check_format(format: Format) -> None:
    """Refuse a base whose integers do not stand for the weight up to one factor per output channel."""
    if format.group_size is not None or not format.symmetric or format.levels is not None:
        raise UserError(
            f"int8_lora cannot train over {format.name}: its products need one scale per output channel and no zero "
            "point. Use base int8, int7, int6, int5 or int4, or method qlora"
        )


def weight_codes(base: QuantizedLayer) -> Tensor:
    """int8 (N, K); unpacked for the moment where two codes lie in a byte."""
    if base.format.bits != 4:
        return base.qdata
    taps = base.weight_shape[2:]
    columns = base.weight_shape[1] * (taps[0] * taps[1] if taps else 1)
    return unpack_nibbles(base.qdata, columns, signed=True)


def _weight_scale(base: QuantizedLayer) -> Tensor:
    """float32 (N,). A channel of zeros has no scale of its own: it takes the median of the others, as a scale far from
    theirs would spoil what is quantized together with it."""
    scale = base.scale[:, 0].float().clone()
    if scale.is_meta:
        return scale
    used = weight_codes(base).any(1)
    return torch.where(used, scale, scale[used].median()) if used.any() else scale


class _LastInput:
    """The input that was rounded last. Query, key and value read the same one: it is rounded, and kept, once."""

    def __init__(self) -> None:
        self._entry: tuple[Any, ...] | None = None

    def codes(self, x: Tensor, key: tuple[object, ...]) -> tuple[Tensor, Tensor] | None:
        """Codes and scale, if they are those of `x` as it is, and something still holds them."""
        if self._entry is None:
            return None
        tensor, version, how, codes, scale = self._entry
        if tensor() is not x or version != x._version or how != key:
            return None
        found = codes(), scale()
        return None if found[0] is None or found[1] is None else found

    def keep(self, x: Tensor, key: tuple[object, ...], codes: Tensor, scale: Tensor) -> None:
        self._entry = weakref.ref(x), x._version, key, weakref.ref(codes), weakref.ref(scale)


_last_input = _LastInput()


class _Rounded(NamedTuple):
    """Codes (rows, C) of an input or gradient, their scales (groups,), and perhaps the base's product with them."""

    codes: Tensor
    scale: Tensor
    out: Tensor | None = None


def _rounded_input(x: Tensor, inside: Tensor, layer: IntegerLoraLayer) -> _Rounded:
    """Of the layer's input `x`, which the layer computes with as `inside`."""
    base, how = layer.base, layer.how
    assert isinstance(base, QuantizedLayer)
    factor = base.input_scale
    shared = factor is None and not x.is_inference()
    key = (how.activation_bits, how.scale, how.granularity, isinstance(base.geometry, Conv2dGeometry), inside.dtype)
    found = _last_input.codes(x, key) if shared else None
    if found is not None:
        return _Rounded(*found)
    rounded = _rounded_and_product(inside.detach(), factor, how.activation_bits, layer, None)
    _check_finite(rounded.scale, "input", layer)
    if shared:
        _last_input.keep(x, key, rounded.codes, rounded.scale)
    return rounded


def _rounded_and_product(
    x: Tensor,
    factor: Tensor | None,
    bits: int,
    layer: IntegerLoraLayer,
    input_shape: torch.Size | None,
    seed: Tensor | None = None,
) -> _Rounded:
    """Codes of `x * factor`; with the base's product where one call makes both: 8 bits, float scales, a scale a token.

    `input_shape` asks for the product of a gradient `x`, for an input of that shape.
    """
    base, how = layer.base, layer.how
    assert isinstance(base, QuantizedLayer)
    shape = base.geometry
    plain = bits == 8 and not how.power_of_two and seed is None and how.granularity == "token"
    if plain and x.dtype in (torch.float32, torch.bfloat16):
        x_pixels = x.permute(0, 2, 3, 1) if isinstance(shape, Conv2dGeometry) else x.reshape(1, 1, -1, x.shape[-1])
        found = _call(x, x.dtype, x_pixels, layer, input_shape)(x_pixels, None if factor is None else factor[None])
        return _Rounded(found.codes.view(-1, x_pixels.shape[3]), found.scale, found.out)
    return _Rounded(*_round_rows(channels_last_rows(x, shape), factor, bits, row_groups(x, layer), how, seed))


MOST_CALLS = 64
"""Shapes that a layer remembers."""


def _call(
    x: Tensor, dtype: torch.dtype, x_pixels: Tensor, layer: IntegerLoraLayer, input_shape: torch.Size | None
) -> LayerCall:
    """The base's product for inputs, or gradients, like `x`, stored as `dtype`; `x_pixels` is `x` as (B, H, W, C)."""
    base = layer.base
    assert isinstance(base, QuantizedLayer)
    weight, bias = base.integer_weight(), None if input_shape is not None else base.bias
    key = (x.shape, dtype, x.device, input_shape)
    made_from = (weight, bias, None if bias is None else bias._version, base.input_scale, layer.weight_scale)
    call = layer.calls.get(key)
    if call is None or any(a is not b for a, b in zip(call.made_from, made_from, strict=True)):
        size = None if input_shape is None else _size(input_shape, base.geometry)
        call = LayerCall(
            weight,
            window(base.geometry),
            tuple(x_pixels.shape),
            dtype,
            groups=row_groups(x, layer),
            column_scale=layer.weight_scale if size is None else _input_scale(layer),
            bias=bias,
            grad_input_size=size,
        )
        call.made_from = made_from
        if len(layer.calls) >= MOST_CALLS:
            layer.calls.clear()
        layer.calls[key] = call
    return call


def _size(input_shape: torch.Size, geometry: Geometry) -> tuple[int, int]:
    if isinstance(geometry, Conv2dGeometry):
        return input_shape[2], input_shape[3]
    return 1, math.prod(input_shape[:-1])


def _input_scale(layer: IntegerLoraLayer) -> Tensor:
    base = layer.base
    assert isinstance(base, QuantizedLayer)
    return layer.weight_scale.new_ones(base.geometry.in_channels) if base.input_scale is None else base.input_scale


class IntegerStep(torch.autograd.Function):
    """Output and gradients of one layer. Saves x as INT8 and h as INT32, (K + 4 r) bytes a token, and the codes of the
    pair. Names are those of `integer_step`."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        x: Tensor,
        rounded: _Rounded,
        lora_a: Tensor,
        lora_b: Tensor,
        layer: IntegerLoraLayer,
    ) -> Tensor:
        base, how = layer.base, layer.how
        assert isinstance(base, QuantizedLayer)
        shape, (x_codes, x_scale, y) = base.geometry, rounded
        scale = layer.weight_scale
        update_scale = None if how.separate_gradient else scale
        a, a_scale, b, b_scale = pair_codes(
            to_rows(_float(lora_a)),
            _float(lora_b).flatten(1),
            ADAPTER_BITS,
            power_of_two=how.power_of_two or how.integer_adapter,  # the scales that INT8 pairs have already
            scaling=layer.scaling,
            divisor_O=update_scale,
        )
        with _no_autocast(x):
            if y is None:
                x_pixels = pixels(x_codes, x.shape, shape)
                y = _call(x, stored(x.dtype), x_pixels, layer, None).of_codes(x_pixels, x_scale)
            h = low_rank_update(
                y.view(-1, b.shape[0]),
                unfold(x_codes, x.shape, shape),
                a,
                b,
                row_scale=x_scale,
                first_scale=a_scale,
                second_scale=b_scale,
                column_scale=update_scale,
                bits=how.activation_bits,
                power_of_two=how.power_of_two,
            )
        ctx.layer, ctx.input_shape = layer, x.shape
        ctx.save_for_backward(x_codes, x_scale, h, a, a_scale, b, b_scale)
        return from_channels_last_rows(y, output_shape(x.shape, shape), shape).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_codes, x_scale, h, a, a_scale, b, b_scale = ctx.saved_tensors
        layer, base, how = ctx.layer, ctx.layer.base, ctx.layer.how
        shape, bits, groups = base.geometry, how.gradient_bits, x_scale.shape[0]
        seed = seed_of(channels_last_rows(grad, shape)) if how.rounding == "stochastic" else None
        need_x = ctx.needs_input_grad[0]
        if need_x:
            rounded = _rounded_and_product(grad, layer.weight_scale, bits, layer, ctx.input_shape, seed)
        else:
            rows = channels_last_rows(grad, shape)
            rounded = _Rounded(*_round_rows(rows, layer.weight_scale, bits, groups, how, seed))
        if grad.dtype != torch.float16:  # a GradScaler looks for what is not finite, and skips the step
            _check_finite(rounded.scale, "gradient", layer)
        own, own_scale = rounded.codes, rounded.scale
        if how.separate_gradient:
            own, own_scale = _round_rows(channels_last_rows(grad, shape), None, bits, groups, how, _plus(seed, 3))

        pair = _Pair(a, a_scale, b, b_scale)
        if need_x:
            grad_x, gh = _grad_input(rounded, own, own_scale, pair, layer, ctx.input_shape, stored(grad.dtype))
            grad_x = from_channels_last_rows(grad_x, ctx.input_shape, shape).to(grad.dtype)
        else:
            grad_x, gh = None, rank_product(own, b.T)
        scales = {"left_scale": x_scale, "right_scale": own_scale, "bits": bits, "power_of_two": how.power_of_two}
        divisor = None if how.separate_gradient else layer.weight_scale
        db = token_gradient(h, own, rank_scale=a_scale, divisor=divisor, seed=_plus(seed, 1), transposed=True, **scales)
        patches = unfold(x_codes, ctx.input_shape, shape)
        da = token_gradient(gh, patches, rank_scale=b_scale, multiplier=layer.scaling, seed=_plus(seed, 2), **scales)
        return grad_x, None, from_rows_like(da, layer.lora_a), db.view(layer.lora_b.shape), None


@dataclass(frozen=True)
class _Pair:
    a: Tensor
    """int8 (r, K), of alpha / rank A."""
    a_scale: Tensor
    b: Tensor
    """int8 (N, r), of B over the weight's scales, or of B."""
    b_scale: Tensor


def _grad_input(
    g: _Rounded,
    own: Tensor,
    own_scale: Tensor,
    pair: _Pair,
    layer: IntegerLoraLayer,
    input_shape: torch.Size,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The gradient of the input, (B, H, W, I), and gh = own b, int32 (M, r)."""
    base, how = layer.base, layer.how
    assert isinstance(base, QuantizedLayer)
    shape = base.geometry
    back = {"column_scale": _input_scale(layer), "grad_input_size": _size(input_shape, shape), "dtype": dtype}
    codes, dx = pixels(g.codes, output_shape(input_shape, shape), shape), g.out
    if dx is None:
        dx = _call(codes, dtype, codes, layer, input_shape).of_codes(codes, g.scale)
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
    codes = gh_codes.view(*codes.shape[:3], layer.rank)
    return dx.add_(weight_product(codes, a, window(shape), row_scale=gh_scale[:, 0].float(), **back)), gh


def from_rows_like(rows: Tensor, like: Tensor) -> Tensor:
    """(r, K) with taps before channels -> the shape of `like`, (r, I) or (r, I, kh, kw)."""
    if like.ndim == 2:
        return rows
    rank, channels, height, width = like.shape
    return rows.view(rank, height, width, channels).permute(0, 3, 1, 2).contiguous()


def row_groups(x: Tensor, layer: IntegerLoraLayer) -> int:
    """How many equal groups of the rows of an input share a scale."""
    if layer.how.granularity == "tensor":
        return 1
    assert isinstance(layer.base, QuantizedLayer)
    return len(x) if isinstance(layer.base.geometry, Conv2dGeometry) else math.prod(x.shape[:-1])


def _round_rows(
    rows: Tensor, factor: Tensor | None, bits: int, groups: int, how: IntegerArithmetic, seed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Codes of `rows * factor` and a scale a group, float32 (groups,); by the quicker quantizer where it does."""
    if bits == 8 and not how.power_of_two and seed is None:
        codes, scale = quantize_rows(rows.view(groups, -1, rows.shape[1]), None if factor is None else factor[None])
        return codes.view(rows.shape), scale
    codes, scale = codes_by_group(rows, bits, groups, power_of_two=how.power_of_two, factor_C=factor, seed=seed)
    return codes, scale[:, 0]


def stored(dtype: torch.dtype) -> torch.dtype:
    """What the kernels store for a result of `dtype`."""
    return dtype if dtype in (torch.float32, torch.bfloat16) else torch.float32


def _float(parameter: Tensor) -> Tensor:
    return parameter.values() if isinstance(parameter, CodesTensor) else parameter


def _no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Exact products in float32, where there are no compiled ones, must not become bfloat16."""
    kind = "cpu" if x.is_meta else x.device.type  # there is no autocast for meta
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _plus(seed: Tensor | None, offset: int) -> Tensor | None:
    return None if seed is None else seed + offset


def _check_finite(scale: Tensor, what: str, layer: IntegerLoraLayer) -> None:
    if not scale.is_meta and not math.isfinite(scale.sum()) and not torch.isfinite(scale).all():
        raise UserError(
            f"{layer.name}: its {what} has values that are not finite, which no integer stands for. Try a lower "
            "learning_rate, or mixed_precision = 'no'"
        )
