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

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from intaglio.layers import frozen
from intaglio.layers.frozen import QuantizedLayer, compute_input
from intaglio.layers.kinds import AdapterLayer, MergeableLayer, TimestepLayer
from intaglio.layers.timesteps import TimestepContext
from intaglio.layers.weight import Factor, FrozenWeight


class ScaledProduct(torch.autograd.Function):
    """`y` of one layer. Saves `x`, `y0 - b` and the factors; two products in all, none of them `grad_weight`.

    What is saved of `x` and `y0` is the weight's affair: the values, or their INT8 values and scales.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, r_out: Tensor, r_in: Tensor | None, rows: Tensor | None, weight: FrozenWeight
    ) -> Tensor:
        """
        Args:
            x: (B, ..., I) or (B, I, H, W).
            r_out: float32 (E, O), a row for each scale set in use.
            r_in: float32 (E, I), or None for 1.
            rows: int64 (B,), the scale set of each sample; None when E = 1.
        """
        need_out, need_in = ctx.needs_input_grad[1:3]
        y, saved_x, saved_y = weight.scaled_output(
            x, Factor(r_out, rows), None if r_in is None else Factor(r_in, rows), save_x=need_in, save_y=need_out
        )
        ctx.weight, ctx.input_shape, ctx.split = weight, x.shape, 3 + len(saved_x or ())
        ctx.save_for_backward(r_out, r_in, rows, *(saved_x or ()), *(saved_y or ()))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weight, saved = ctx.weight, ctx.saved_tensors
        r_out, r_in, rows = saved[:3]
        saved_x, saved_y = weight.restore(saved[3 : ctx.split]), weight.restore(saved[ctx.split :])
        output_factor, input_factor = Factor(r_out, rows), None if r_in is None else Factor(r_in, rows)
        grad_out = None if saved_y is None else weight.grad_r_out(grad, output_factor, saved_y)
        need_x, _, need_in = ctx.needs_input_grad[:3]
        if not (need_x or need_in):
            return None, grad_out, None, None, None
        grad_x, grad_in = weight.scaled_grad_input(grad, ctx.input_shape, output_factor, input_factor, saved_x)
        return grad_x if need_x else None, grad_out, grad_in, None, None


def scaled_product(
    base: nn.Linear | nn.Conv2d, x: Tensor, r_out: Tensor, r_in: Tensor | None, rows: Tensor | None
) -> Tensor:
    """`ScaledProduct` over the weight of `base`."""

    def train(x: Tensor) -> Tensor:
        return ScaledProduct.apply(x, r_out, r_in, rows, frozen.weight_of(base, x.dtype))

    return frozen.within(base, compute_input(x), train)


class ScaleSets(nn.ParameterList):
    """Offsets (C,) of N scale sets. Each is a parameter of its own: what a batch does not touch has no gradient, so no
    optimizer's momentum or decay moves it. They are read by a call, so that what offloads them brings them."""

    def __init__(self, count: int, channels: int, device: torch.device):
        super().__init__(nn.Parameter(torch.zeros(channels, device=device)) for _ in range(count))

    __call__ = nn.Module.__call__  # a list of parameters refuses it

    def forward(self, sets: Sequence[int]) -> Tensor:
        """(E, C): those of some sets."""
        return torch.stack([self[i] for i in sets])


class _Scales(AdapterLayer):
    """Offsets of N scale sets around one base."""

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
        shape, device = frozen.geometry(base), frozen.device(base)
        unit = None if relative or not isinstance(base, QuantizedLayer) else 1 / base.scale.detach().mean(dim=1)
        self.register_buffer("output_unit", unit, persistent=False)
        self.output_offset = ScaleSets(num_sets, shape.out_channels, device)
        self.input_offset = ScaleSets(num_sets, shape.in_channels, device) if train_input else None

    def r_out(self, sets: Sequence[int]) -> Tensor:
        """The factors (E, O) of some sets."""
        offset = self.output_offset(sets)
        return 1 + (offset if self.output_unit is None else offset * self.output_unit)

    def r_in(self, sets: Sequence[int]) -> Tensor | None:
        """The factors (E, I) of some sets; None for 1."""
        return None if self.input_offset is None else 1 + self.input_offset(sets)

    def _forward(self, x: Tensor, sets: tuple[int, ...], rows: Tensor | None) -> Tensor:
        return scaled_product(self.base, x, self.r_out(sets), self.r_in(sets), rows if len(sets) > 1 else None)


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
        self.base.scale *= self.r_out((0,))[0][:, None]
        r_in = self.r_in((0,))
        if r_in is not None:
            old = self.base.input_scale
            self.base.input_scale = r_in[0] if old is None else old * r_in[0]
        return self.base

    @torch.no_grad()
    def merged_float(self) -> nn.Linear | nn.Conv2d:
        layer = frozen.to_float(self.base)
        weight = layer.weight * self.r_out((0,))[0].view(-1, *[1] * (layer.weight.ndim - 1))
        r_in = self.r_in((0,))
        if r_in is not None:
            weight = frozen.scale_inputs(layer, weight, r_in[0])
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
