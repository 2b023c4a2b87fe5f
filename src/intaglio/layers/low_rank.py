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
from intaglio.kernels.float_pair import pair_down, pair_sums
from intaglio.kernels.weight_product import Pair
from intaglio.layers import frozen
from intaglio.layers.frozen import QuantizedLayer, compute_input
from intaglio.layers.geometry import Conv2dGeometry
from intaglio.layers.int8_weight import Int8Weight
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
        device = frozen.device(base)
        self.lora_a = nn.Parameter(torch.empty(rank, shape.in_channels, *taps, device=device))
        self.lora_b = nn.Parameter(torch.zeros(shape.out_channels, rank, *([1] * len(taps)), device=device))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    @property
    def scaling(self) -> float:
        return self.alpha / self.rank

    def forward(self, x: Tensor) -> Tensor:
        """A Linear in integers adds the pair in its own product; beside any other, the pair is two float products."""
        x = compute_input(x)
        if isinstance(self.base, nn.Linear) and frozen.adds_pair(self.base, x.dtype):
            return frozen.within(self.base, x, self._one_product)
        update = self.update(x)  # first: autograd sums the gradients of `x` in the reverse order
        return self.base(x) + self.scaling * update

    def update(self, x: Tensor) -> Tensor:
        """`B (A x)`, in the dtype of `x`."""
        a, b, shape = self.lora_a.to(x.dtype), self.lora_b.to(x.dtype), frozen.geometry(self.base)
        if isinstance(shape, Conv2dGeometry):
            return F.conv2d(F.conv2d(x, a, None, shape.stride, shape.padding, shape.dilation), b)
        return F.linear(F.linear(x, a), b)

    def _one_product(self, x: Tensor) -> Tensor:
        weight = frozen.weight_of(self.base, x.dtype)
        return LowRankProduct.apply(x, self.lora_a, self.lora_b, self.scaling, weight)

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


class LowRankProduct(torch.autograd.Function):
    """`base(x) + scaling * b (a x)` of a Linear that adds the pair in its own product.

    Between the passes lie the INT8 values of `x`, which the base's product needs anyway, and `a x`; `grad_a` is taken
    from those values.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, scaling: float, weight: Int8Weight
    ) -> Tensor:
        """`x` (B, ..., I); `a` (r, I) and `b` (O, r) float32, rounded to the dtype of `x` where they are used."""
        y, saved_x, h = weight.output_with_pair(x, Pair(a, b.T, 1.0, scaling))
        ctx.weight, ctx.scaling, ctx.input_shape = weight, scaling, x.shape
        ctx.save_for_backward(h, a, b, *saved_x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        h, a, b, *saved = ctx.saved_tensors
        need_x, need_a, need_b = ctx.needs_input_grad[:3]
        weight, rows, grad_x = ctx.weight, grad.reshape(-1, len(b)), None
        if need_x:
            grad_x, grad_h = weight.grad_input_with_pair(grad, ctx.input_shape, Pair(b.T, a, ctx.scaling, 1.0))
        else:
            grad_h = pair_down(rows, b.T, ctx.scaling)
        grad_a = weight.grad_pair_down(grad_h, weight.restore(saved)) if need_a else None
        grad_b = pair_sums(rows, h, ctx.scaling).T if need_b else None
        return grad_x, grad_a, grad_b, None, None
