"""A low-rank pair beside a quantized weight, with all eight products of a step in INT8 x INT8 -> INT32.

After CDM-QTA (Lu et al., ISCAS 2025). `quantizers/integer_step.py` defines every integer of a step; with power-of-two
scales this layer equals it bit for bit, and with float scales it computes the same with a finer grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from intaglio.errors import UserError
from intaglio.kernels.int8_matmul import MAX_REDUCTION, int8_matmul, int8_matmul_transposed
from intaglio.kernels.row_quantizer import quantize_rows
from intaglio.layers.frozen import QuantizedLayer, compute_input
from intaglio.layers.geometry import Conv2dGeometry
from intaglio.layers.low_rank import LowRankLayer
from intaglio.layers.patches import channels_last_rows, fold, from_channels_last_rows, output_shape, unfold
from intaglio.quantizers.activations import quantize_columns, quantize_groups, seed_of
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

    def forward(self, x: Tensor) -> Tensor:
        return IntegerStep.apply(compute_input(x), self.lora_a, self.lora_b, self)


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


class IntegerStep(torch.autograd.Function):
    """Output and gradients of one layer. Saves x as INT8 and h as INT32, (K + 4 r) bytes a token, and the codes of the
    pair. Names are those of `integer_step`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lora_a: Tensor, lora_b: Tensor, layer: IntegerLoraLayer) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        base, how = layer.base, layer.how
        assert isinstance(base, QuantizedLayer)
        shape, power_of_two = base.geometry, how.power_of_two
        ctx.layer, ctx.input_shape, ctx.dtype = layer, x.shape, x.dtype
        rows = channels_last_rows(x.float(), shape)
        groups = row_groups(rows, x.shape, layer)
        x_codes, x_scale = _round_rows(rows, base.input_scale, how.activation_bits, groups, power_of_two)
        _check_finite(x_scale, "input", layer)

        a_rows = to_rows(lora_a) * layer.scaling
        a, a_scale = quantize_groups(a_rows, ADAPTER_BITS, layer.rank, power_of_two=power_of_two)
        b_rows = lora_b.flatten(1)
        if not how.separate_gradient:
            b_rows = b_rows / layer.weight_scale[:, None]
        b, b_scale = quantize_columns(b_rows, ADAPTER_BITS, power_of_two=power_of_two)

        patches = unfold(x_codes, x.shape, shape)
        with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):  # there is none for meta
            y, h = int8_matmul(patches, torch.cat([weight_codes(base), a])).split([len(b), layer.rank], 1)
            row_scale = _per_row(x_scale, len(patches))
            h_real = h.double() * (row_scale.double() * a_scale.T.double() * b_scale.double())
            h_codes, h_scale = quantize_groups(h_real, how.activation_bits, len(x_scale), power_of_two=power_of_two)
            u = int8_matmul(h_codes, b)
        value = y.float() * row_scale
        update = u.float() * _per_row(h_scale.float(), len(patches))
        scale = layer.weight_scale
        value = value * scale + update if how.separate_gradient else (value + update) * scale
        if base.bias is not None:
            value = value + base.bias.detach().float()
        ctx.save_for_backward(x_codes, x_scale, h.contiguous(), a, a_scale, b, b_scale)
        return from_channels_last_rows(value, output_shape(x.shape, shape), shape).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_codes, x_scale, h, a, a_scale, b, b_scale = ctx.saved_tensors
        layer, base, how = ctx.layer, ctx.layer.base, ctx.layer.how
        shape, power_of_two, bits = base.geometry, how.power_of_two, how.gradient_bits
        rows = channels_last_rows(grad.float(), shape)
        groups = len(x_scale)
        seed = seed_of(rows) if how.rounding == "stochastic" else None
        g, g_scale = _round_rows(rows, layer.weight_scale, bits, groups, power_of_two, seed)
        if grad.dtype != torch.float16:  # a GradScaler looks for what is not finite, and skips the step
            _check_finite(g_scale, "gradient", layer)
        own, own_scale = g, g_scale
        if how.separate_gradient:
            own, own_scale = _round_rows(rows, None, bits, groups, power_of_two, _plus(seed, 3))
        x_scales, own_scales = (_per_row(s, len(rows)).double() for s in (x_scale, own_scale))

        grad_x = None
        need_x = ctx.needs_input_grad[0]
        if need_x and not how.separate_gradient:
            packed = torch.cat([weight_codes(base), b], 1)
            dx, gh = int8_matmul_transposed(g, packed).split([packed.shape[1] - layer.rank, layer.rank], 1)
        else:
            dx = int8_matmul_transposed(g, weight_codes(base)) if need_x else None
            gh = int8_matmul_transposed(own, b)
        gh_real = gh.double() * (own_scales * b_scale.double())
        if dx is not None:
            gh_codes, gh_scale = quantize_groups(gh_real * a_scale.T.double(), bits, groups, power_of_two=power_of_two)
            v = int8_matmul_transposed(gh_codes, a)
            dx, v = (fold(part, ctx.input_shape, shape) for part in (dx, v))
            value = dx.float() * _per_row(g_scale, len(dx)) + v.float() * _per_row(gh_scale.float(), len(dx))
            if base.input_scale is not None:
                value = value * base.input_scale
            grad_x = from_channels_last_rows(value, ctx.input_shape, shape).to(ctx.dtype)

        h_real = h.double() * (x_scales * a_scale.T.double() * own_scales)
        h_codes, h_scale = quantize_columns(h_real, bits, power_of_two=power_of_two, seed=_plus(seed, 1))
        gh_codes, gh_scale = quantize_columns(gh_real * x_scales, bits, power_of_two=power_of_two, seed=_plus(seed, 2))
        db = _sum_over_tokens(own, h_codes) * h_scale
        if not how.separate_gradient:
            db = db / layer.weight_scale[:, None].double()
        da = _sum_over_tokens(gh_codes, unfold(x_codes, ctx.input_shape, shape)) * gh_scale.T * layer.scaling
        grad_a = from_rows_like(da.float(), layer.lora_a)
        return grad_x, grad_a, db.float().view(layer.lora_b.shape), None


def from_rows_like(rows: Tensor, like: Tensor) -> Tensor:
    """(r, K) with taps before channels -> the shape of `like`, (r, I) or (r, I, kh, kw)."""
    if like.ndim == 2:
        return rows
    rank, channels, height, width = like.shape
    return rows.view(rank, height, width, channels).permute(0, 3, 1, 2).contiguous()


def row_groups(rows: Tensor, input_shape: torch.Size, layer: IntegerLoraLayer) -> int:
    """How many equal groups of the rows of an input share a scale."""
    if layer.how.granularity == "tensor":
        return 1
    assert isinstance(layer.base, QuantizedLayer)
    return input_shape[0] if isinstance(layer.base.geometry, Conv2dGeometry) else len(rows)


def _round_rows(
    rows: Tensor, factor: Tensor | None, bits: int, groups: int, power_of_two: bool, seed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`quantize_groups(rows * factor)`, by the compiled quantizer where it does just that."""
    if bits == 8 and not power_of_two and seed is None:
        codes, scale = quantize_rows(rows.view(groups, -1, rows.shape[1]), None if factor is None else factor[None])
        return codes.view(rows.shape), scale[:, None]
    values = rows if factor is None else rows * factor
    return quantize_groups(values, bits, groups, power_of_two=power_of_two, seed=seed)


def _per_row(scale: Tensor, rows: int) -> Tensor:
    """(groups, 1) -> (rows, 1)."""
    return scale.repeat_interleave(rows // len(scale), 0)


def _plus(seed: Tensor | None, offset: int) -> Tensor | None:
    return None if seed is None else seed + offset


def _sum_over_tokens(left_MR: Tensor, right_MC: Tensor) -> Tensor:
    """`left^T right`, float64 (R, C), exact: INT32 sums of at most `MAX_REDUCTION` tokens each."""
    parts = zip(left_MR.split(MAX_REDUCTION), right_MC.split(MAX_REDUCTION), strict=True)
    return torch.stack([int8_matmul(left.T, right.T).double() for left, right in parts]).sum(0)


def _check_finite(scale: Tensor, what: str, layer: IntegerLoraLayer) -> None:
    if not scale.is_meta and not torch.isfinite(scale).all():
        raise UserError(
            f"{layer.name}: its {what} has values that are not finite, which no integer stands for. Try a lower "
            "learning_rate, or mixed_precision = 'no'"
        )
