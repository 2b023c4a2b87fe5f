"""A low-rank pair beside a frozen weight: LoRA (Hu et al., ICLR 2022), in the shapes of PEFT and diffusers.

    y = base(x) + scaling * B (A x),   scaling = alpha / rank

Linear: `lora_a` (r, I), `lora_b` (O, r). Conv2d: `lora_a` (r, I, kh, kw) with the base's stride, padding and dilation,
`lora_b` (O, r, 1, 1).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from intaglio.errors import UserError
from intaglio.kernels.float_pair import pair_down, pair_sums, pair_up
from intaglio.kernels.weight_product import Pair
from intaglio.layers import frozen, integer
from intaglio.layers.frozen import QuantizedLayer, compute_input
from intaglio.layers.geometry import Conv2dGeometry
from intaglio.layers.kinds import MergeableLayer


class LowRankLayer(MergeableLayer):
    layout = "lora"
    fixed_dtype = ("lora_a", "lora_b")

    def __init__(self, base: nn.Linear | nn.Conv2d, rank: int, alpha: float):
        super().__init__()
        self.base, self.rank, self.alpha = base, rank, alpha
        shape = frozen.geometry(base)
        taps: tuple[int, ...] = ()
        if isinstance(shape, Conv2dGeometry):
            if shape.groups != 1:
                raise UserError(
                    f"a convolution with {shape.groups} groups takes no low-rank pair; leave it out of targets"
                )
            taps = shape.kernel_size
        device = base.qdata.device if isinstance(base, QuantizedLayer) else base.weight.device
        self.lora_a = nn.Parameter(torch.empty(rank, shape.in_channels, *taps, device=device))
        self.lora_b = nn.Parameter(torch.zeros(shape.out_channels, rank, *([1] * len(taps)), device=device))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    @property
    def scaling(self) -> float:
        return self.alpha / self.rank

    def forward(self, x: Tensor) -> Tensor:
        x = compute_input(x)
        shape = frozen.geometry(self.base)
        base = frozen.integer_base(self.base, "output", x.dtype)
        if base is not None and not isinstance(shape, Conv2dGeometry):
            return IntegerLowRankProduct.apply(x, self.lora_a, self.lora_b, self.scaling, base)
        a, b = self.lora_a.to(x.dtype), self.lora_b.to(x.dtype)
        if isinstance(shape, Conv2dGeometry):
            update = F.conv2d(F.conv2d(x, a, None, shape.stride, shape.padding, shape.dilation), b)
        else:
            update = F.linear(F.linear(x, a), b)
        return self.base(x) + self.scaling * update

    def why_not_merge(self) -> str | None:
        if not isinstance(self.base, QuantizedLayer):
            return None
        return (
            f"a low-rank update cannot be folded into {self.base.format.name} codes: rounding would lose it. "
            "Keep the adapter file (it is small), or fold into float weights with merge(dequantize=True)"
        )

    def merge(self) -> nn.Linear | nn.Conv2d:
        return self.merged_float()

    @torch.no_grad()
    def merged_float(self) -> nn.Linear | nn.Conv2d:
        layer = frozen.to_float(self.base)
        product = torch.einsum("or,r...->o...", self.lora_b.flatten(1), self.lora_a)
        layer.weight += (self.scaling * product).to(layer.weight.dtype)
        return layer


class IntegerLowRankProduct(torch.autograd.Function):
    """`base(x) + scaling * b (a x)` of a Linear whose `output` runs in integers.

    Between the passes lie the INT8 codes of `x`, which the base's product needs anyway, and `a x`; `grad_a` is taken
    from those codes.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, scaling: float, base: QuantizedLayer
    ) -> Tensor:
        """`x` (B, ..., I); `a` (r, I) and `b` (O, r) float32, rounded to the dtype of `x` where they are used."""
        pair = Pair(a, b.T, 1.0, scaling)
        codes, y, h = integer.output(base, x, base.input_scale, bias=base.bias, pair=pair)
        ctx.base, ctx.scaling, ctx.input_shape = base, scaling, x.shape
        ctx.save_for_backward(codes.qdata, codes.scale, h, a, b)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        qdata, scale, h, a, b = ctx.saved_tensors
        need_x, need_a, need_b = ctx.needs_input_grad[:3]
        rows = grad.reshape(-1, len(b))
        grad_a = grad_b = grad_x = None
        if need_x and frozen.integer_base(ctx.base, "grad_input", grad.dtype) is not None:
            pair = Pair(b.T, a, ctx.scaling, 1.0)
            grad_x, grad_h = integer.grad_input(ctx.base, grad, None, ctx.input_shape, pair=pair)
            assert grad_h is not None
        else:
            grad_h = pair_down(rows, b.T, ctx.scaling)
            if need_x:
                grad_x = frozen.grad_input(ctx.base, grad, ctx.input_shape)
                pair_up(grad_x.view(-1, a.shape[1]), grad_h, a)
        if need_b:
            grad_b = pair_sums(rows, h, ctx.scaling).T
        if need_a:
            grad_a = pair_sums(qdata.view(len(h), -1), (grad_h * scale[:, None]).to(grad_h.dtype))
            if ctx.base.input_scale is not None:
                grad_a = torch.where(ctx.base.input_scale == 0, 0.0, grad_a / ctx.base.input_scale)
        return grad_x, grad_a, grad_b, None, None


def check_pair(rank: int, alpha: float | None) -> None:
    """Refuse a rank or alpha that makes no pair."""
    if rank < 1:
        raise UserError(f"rank must be at least 1, not {rank}")
    if alpha is not None and not alpha > 0:
        raise UserError(f"alpha must be positive, not {alpha}; leave it out for alpha = rank")
