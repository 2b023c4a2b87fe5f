"""Group norm over channels-last images, with SiLU behind it if asked, and its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from intaglio.kernels.cost import Arguments, Vector
from intaglio.kernels.dtypes import compute_dtype
from intaglio.kernels.registry import Op
from intaglio.kernels.row_quantizer import Keep, check_keep, room_for_codes


def group_norm(
    x_BCHW: Tensor,
    groups: int,
    weight_C: Tensor | None = None,
    bias_C: Tensor | None = None,
    eps: float = 1e-5,
    *,
    silu: bool = False,
    keep: Keep = "input",
) -> Tensor:
    """`z = (x - mean) rstd w + b` over groups of neighbouring channels, as `F.group_norm`; `z sigmoid(z)` if `silu`.

    Autograd keeps `x`, and two numbers for each sample's group, whatever stands behind the norm.

    Args:
        x_BCHW: float (B, C, H, W) of any strides; channels-last is read as it lies.
        weight_C, bias_C: float (C,); None for 1 and 0.
        keep: `codes` keeps `x` as INT8 codes with a scale per pixel; without a difference in what is computed forward.

    Returns:
        (B, C, H, W), channels-last, in the dtype of `x`.

    Raises:
        ValueError: a shape that does not fit, or no float.
    """
    check_keep(keep)
    shapes = [None if t is None else tuple(t.shape) for t in (x_BCHW, weight_C, bias_C)]
    channels = x_BCHW.shape[1] if x_BCHW.ndim == 4 else 0
    if (
        x_BCHW.ndim != 4
        or not x_BCHW.is_floating_point()
        or groups < 1
        or channels % groups
        or any(s is not None and s != (channels,) for s in shapes[1:])
    ):
        raise ValueError(
            f"group_norm: x {x_BCHW.dtype} {shapes[0]} in {groups} groups, weight {shapes[1]}, bias {shapes[2]}; "
            "expected float (B, C, H, W) with C a multiple of groups, and (C,) twice or None"
        )
    return _GroupNorm.apply(x_BCHW, weight_C, bias_C, groups, eps, silu, keep)


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float, silu: bool, keep: Keep
    ) -> Tensor:
        rows = _pixels(x)
        needed = any(ctx.needs_input_grad[:3])
        with_codes = needed and keep == "codes"
        y, mean, rstd, codes, scale = group_norm_operator(rows, weight, bias, groups, eps, silu, with_codes)
        if needed:
            ctx.silu, ctx.shape = silu, x.shape
            saved = (codes, scale) if with_codes else (rows, None)
            ctx.save_for_backward(*saved, mean, rstd, weight, bias)
        return _from_pixels(y, x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, scale, mean, rstd, weight, bias = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_x, grad_weight, grad_bias = group_norm_gradient(
            _pixels(grad), x, scale, mean, rstd, weight, bias, ctx.silu, need_weight or need_bias
        )
        return (
            _from_pixels(grad_x, ctx.shape) if need_x else None,
            grad_weight.to(weight.dtype) if need_weight else None,
            grad_bias.to(bias.dtype) if need_bias else None,
            *(None,) * 4,
        )


def _pixels(x_BCHW: Tensor) -> Tensor:
    """(B, H * W, C), dense: a view of a channels-last picture."""
    return x_BCHW.permute(0, 2, 3, 1).contiguous().flatten(1, 2)


def _from_pixels(y_BRC: Tensor, shape: torch.Size) -> Tensor:
    return y_BRC.unflatten(1, shape[2:]).permute(0, 3, 1, 2)


def _fake(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float, silu: bool, with_codes: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    mean = x.new_empty(x.shape[0], groups, dtype=compute_dtype(x))
    codes, scale = room_for_codes(x, x.shape[0] * x.shape[1] if with_codes else None)
    return torch.empty_like(x), mean, torch.empty_like(mean), codes, scale


def _gradient_fake(
    grad: Tensor,
    x: Tensor,
    scale: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    silu: bool,
    of_affine: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_weight = mean.new_empty(x.shape[2] if of_affine else 0)
    return torch.empty_like(grad), grad_weight, torch.empty_like(grad_weight)


def _cost(args: Arguments, x: Tensor) -> list[Vector]:
    """The norm, and the SiLU behind it."""
    return [Vector("group_norm", x.numel()), *([Vector("silu", x.numel())] if args["silu"] else [])]


group_norm_operator = Op("group_norm", _fake, cost=lambda args, out: _cost(args, args["x"]))
group_norm_gradient = Op("group_norm_grad", _gradient_fake, cost=lambda args, out: _cost(args, args["grad"]))
