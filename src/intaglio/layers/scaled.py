"""Separable trainable scales over a frozen weight: PEQA's, and TuneQDM's (Ryu et al., ECCV 2024, section 3.2).

The layer computes with `W = (1 + o) W_hat (1 + i)` per output and input channel, in the exact form that needs neither
`W` nor its gradient. Tokens in rows:

    xs = x * r_in          y0  = xs W_hat^T + b    y  = y0 * r_out + b * (1 - r_out)    r = 1 + offset
    dy0 = dy * r_out       dxs = dy0 W_hat         dx = dxs * r_in
    dr_out = sum over tokens of dy * (y0 - b)      dr_in = sum over tokens of dxs * x

The same for a convolution, with its product in place of the matrix product. The bias goes into the product, although it
is not scaled, so that a layer whose factors are 1 equals its base bit for bit. In integers it is added last in both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from intaglio.layers import frozen, integer
from intaglio.layers.frozen import QuantizedLayer, compute_input
from intaglio.layers.kinds import AdapterLayer, MergeableLayer, TimestepLayer
from intaglio.layers.timesteps import TimestepContext


class ScaledProduct(torch.autograd.Function):
    """`y` of one layer. Saves `x`, `y0` and the factors; two products in all, none of them `grad_weight`."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, r_out: Tensor, r_in: Tensor | None, rows: Tensor | None, base: nn.Linear | nn.Conv2d
    ) -> Tensor:
        """
        Args:
            x: (B, ..., I) or (B, I, H, W).
            r_out: float32 (E, O), a row for each scale set in use.
            r_in: float32 (E, I), or None for 1.
            rows: int64 (B,), the scale set of each sample; None when E = 1.
        """
        xs = x if r_in is None else x * _factor(r_in, rows, base, x)
        y0 = frozen.output(base, xs)
        ctx.base, ctx.input_shape = base, x.shape
        ctx.save_for_backward(
            x if ctx.needs_input_grad[2] else None, y0 if ctx.needs_input_grad[1] else None, r_out, r_in, rows
        )
        y = y0 * _factor(r_out, rows, base, y0)
        return y if base.bias is None else y + _factor(base.bias * (1 - r_out), rows, base, y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, y0, r_out, r_in, rows = ctx.saved_tensors
        need_x, need_out, need_in = ctx.needs_input_grad[:3]
        grad_out = None
        if need_out:
            grad_out = _sum_to_sets(grad * y0, r_out, rows, ctx.base)
            if ctx.base.bias is not None:
                grad_out -= ctx.base.bias * _sum_to_sets(grad, r_out, rows, ctx.base)
        if not (need_x or need_in):
            return None, grad_out, None, None, None
        grad_xs = frozen.grad_input(ctx.base, grad, ctx.input_shape, _chosen(r_out, rows))
        grad_in = _sum_to_sets(grad_xs * x, r_in, rows, ctx.base) if need_in else None
        grad_x = grad_xs if r_in is None else grad_xs * _factor(r_in, rows, ctx.base, grad_xs)
        return grad_x if need_x else None, grad_out, grad_in, None, None


class IntegerScaledProduct(torch.autograd.Function):
    """The same where `output` runs in integers. Keeps the INT8 codes of `x * r_in` and of `(y0 - b) * r_out`, no float.

    Factors that all samples share are scales of the products, at no cost. `x` and `y0` are taken back from their codes
    by division, so a factor of exactly 0 gets no gradient.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, r_out: Tensor, r_in: Tensor | None, rows: Tensor | None, base: QuantizedLayer
    ) -> Tensor:
        factor, shared = _input_factor(r_in, rows, base), rows is None
        codes, y, _ = integer.output(base, x, factor, bias=None, out_factor=r_out[0] if shared else None)
        if not shared:
            y = _multiply(y, _chosen(r_out, rows), base)
        kept = integer.to_codes(y, base.geometry, None, by_token=True) if ctx.needs_input_grad[1] else None
        ctx.base, ctx.input_shape = base, x.shape
        ctx.save_for_backward(
            *((codes.qdata, codes.scale) if ctx.needs_input_grad[2] else (None, None)),
            *((kept.qdata, kept.scale) if kept is not None else (None, None)),
            r_out,
            r_in,
            rows,
        )
        return y if base.bias is None else y.add_(base.geometry.along_channels(base.bias.to(y.dtype), y))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_codes, x_scale, y_codes, y_scale, r_out, r_in, rows = ctx.saved_tensors
        need_x, need_out, need_in = ctx.needs_input_grad[:3]
        base, grad_out, grad_in = ctx.base, None, None
        if need_out:
            per_sample = integer.sum_products(grad, integer.Codes(y_codes, y_scale), base.geometry)
            grad_out = _add_to_sets(_divided(per_sample, _chosen(r_out, rows)), r_out, rows)
        if not (need_x or need_in):
            return None, grad_out, None, None, None
        shared = r_in[0] if r_in is not None and rows is None else None
        grad_x = frozen.grad_input(base, grad, ctx.input_shape, _chosen(r_out, rows), out_factor=shared)
        if r_in is not None and shared is None:
            grad_x = _multiply(grad_x, _chosen(r_in, rows), base)
        if need_in:
            factor = _input_factor(r_in, rows, base)
            assert factor is not None
            assert r_in is not None
            per_sample = integer.sum_products(grad_x, integer.Codes(x_codes, x_scale), base.geometry)
            grad_in = _add_to_sets(_divided(per_sample, _chosen(r_in, rows) * factor), r_in, rows)
        return grad_x if need_x else None, grad_out, grad_in, None, None


def _multiply(x: Tensor, factor: Tensor, base: QuantizedLayer) -> Tensor:
    """`x` times a factor for each channel, in place."""
    return x.mul_(base.geometry.along_channels(factor.to(x.dtype), x))


def _divided(sums: Tensor, factor: Tensor) -> Tensor:
    """`sums / factor`; 0 where the factor is 0, from which nothing can be taken back."""
    return torch.where(factor == 0, 0.0, sums / factor)


def _chosen(r: Tensor, rows: Tensor | None) -> Tensor:
    """The factors of each sample (B, C), or of all of them (C,)."""
    return r[0] if rows is None else r[rows]


def _input_factor(r_in: Tensor | None, rows: Tensor | None, base: QuantizedLayer) -> Tensor | None:
    """What `x` is multiplied with before it is rounded: `r_in` and the base's own."""
    if r_in is None:
        return base.input_scale
    chosen = _chosen(r_in, rows)
    return chosen if base.input_scale is None else chosen * base.input_scale


def _factor(r: Tensor, rows: Tensor | None, base: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
    """The factors of each sample, shaped to multiply the channels of `x`, in its dtype."""
    return frozen.geometry(base).along_channels(_chosen(r, rows).to(x.dtype), x)


def _sum_to_sets(product: Tensor, r: Tensor, rows: Tensor | None, base: nn.Linear | nn.Conv2d) -> Tensor:
    """Sum (B, ..., C) over everything but channels, and over the samples of each scale set: (E, C) like `r`."""
    return _add_to_sets(frozen.geometry(base).per_sample_sum(product), r, rows)


def _add_to_sets(per_sample: Tensor, r: Tensor, rows: Tensor | None) -> Tensor:
    """Sums of each sample (B, C) -> of each scale set, (E, C) like `r`."""
    if rows is None:
        return per_sample.sum(0, keepdim=True).to(r.dtype)
    sums = torch.zeros(r.shape, dtype=per_sample.dtype, device=r.device)
    return sums.index_add_(0, rows, per_sample).to(r.dtype)


class _Scales(AdapterLayer):
    """Offsets of N scale sets around one base. Each set is a parameter of its own: what a batch does not touch has no
    gradient, so no optimizer's momentum or decay moves it."""

    layout = "scales"
    fixed_dtype = ("output_offset", "input_offset")

    def __init__(self, base: nn.Linear | nn.Conv2d, num_sets: int, train_input: bool, relative: bool = True):
        """
        Args:
            relative: an offset is a share of its scale. False: of output channels it is what is added to the scale
                itself, `s + ds`, as the official code of TuneQDM trains it. Input scales start at 1: no difference.
        """
        super().__init__()
        self.base = base
        shape, device = frozen.geometry(base), _device(base)
        unit = None if relative or not isinstance(base, QuantizedLayer) else 1 / base.scale.detach().mean(dim=1)
        self.register_buffer("output_unit", unit, persistent=False)

        def offsets(channels: int) -> nn.ParameterList:
            return nn.ParameterList(nn.Parameter(torch.zeros(channels, device=device)) for _ in range(num_sets))

        self.output_offset = offsets(shape.out_channels)
        self.input_offset = offsets(shape.in_channels) if train_input else None

    def r_out(self, i: int) -> Tensor:
        """The factors (O,) of set `i`."""
        offset = self.output_offset[i]
        return 1 + (offset if self.output_unit is None else offset * self.output_unit)

    def _forward(self, x: Tensor, sets: tuple[int, ...], rows: Tensor | None) -> Tensor:
        r_out = torch.stack([self.r_out(i) for i in sets])
        r_in = None if self.input_offset is None else torch.stack([1 + self.input_offset[i] for i in sets])
        x, rows = compute_input(x), rows if len(sets) > 1 else None
        base = frozen.integer_base(self.base, "output", x.dtype)
        if base is not None:
            return IntegerScaledProduct.apply(x, r_out, r_in, rows, base)
        return ScaledProduct.apply(x, r_out, r_in, rows, self.base)


class ScaledLayer(_Scales, MergeableLayer):
    """One scale set for all timesteps."""

    def __init__(self, base: nn.Linear | nn.Conv2d, *, train_input: bool, relative: bool = True):
        super().__init__(base, 1, train_input, relative)

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(x, (0,), None)

    def why_not_merge(self) -> str | None:
        return None

    @torch.no_grad()
    def merge(self) -> nn.Linear | nn.Conv2d:
        """`r_out` goes into the weight scales, `r_in` into the base's `input_scale`. A float base takes both."""
        if not isinstance(self.base, QuantizedLayer):
            return self.merged_float()
        self.base.scale *= self.r_out(0)[:, None]
        if self.input_offset is not None:
            r_in = 1 + self.input_offset[0].detach()
            old = self.base.input_scale
            self.base.input_scale = r_in if old is None else old * r_in
        return self.base

    @torch.no_grad()
    def merged_float(self) -> nn.Linear | nn.Conv2d:
        layer = frozen.to_float(self.base)
        weight = layer.weight * _broadcast(self.r_out(0), layer.weight.ndim, 0)
        if self.input_offset is not None:
            weight = frozen.scale_inputs(layer, weight, 1 + self.input_offset[0])
        layer.weight.copy_(weight)
        return layer


class TimestepScaledLayer(_Scales, TimestepLayer):
    """One scale set per timestep interval."""

    def __init__(
        self,
        base: nn.Linear | nn.Conv2d,
        context: TimestepContext,
        num_intervals: int,
        *,
        train_input: bool,
        relative: bool = True,
    ):
        super().__init__(base, num_intervals, train_input, relative)
        self.context, self.num_intervals = context, num_intervals

    def forward(self, x: Tensor) -> Tensor:
        selection = self.context.current()
        return self._forward(x, selection.touched, selection.for_batch(len(x)))


def _broadcast(vector: Tensor, ndim: int, axis: int) -> Tensor:
    return vector.view([-1 if i == axis else 1 for i in range(ndim)])


def _device(base: nn.Linear | nn.Conv2d) -> torch.device:
    return base.qdata.device if isinstance(base, QuantizedLayer) else base.weight.device
