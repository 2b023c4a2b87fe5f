"""Layer norm of rows and its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from intaglio.kernels.cost import Vector
from intaglio.kernels.dtypes import compute_dtype, rows_of
from intaglio.kernels.registry import Op
from intaglio.kernels.row_quantizer import Keep, check_keep, room_for_codes, value_of


def layer_norm(
    x: Tensor,
    weight_C: Tensor | None = None,
    bias_C: Tensor | None = None,
    eps: float = 1e-5,
    *,
    keep: Keep = "input",
) -> Tensor:
    """`(x - mean) rstd w + b` over the last dimension, as `F.layer_norm`.

    Args:
        x: float (..., C).
        weight_C, bias_C: float (C,); None for 1 and 0.
        keep: `codes` keeps `x` for the gradient as INT8 codes with a scale per row.

    Returns:
        (..., C), in the dtype of `x`.

    Raises:
        ValueError: a shape that does not fit, or no float.
    """
    check_keep(keep)
    shapes = [None if t is None else tuple(t.shape) for t in (x, weight_C, bias_C)]
    if x.ndim < 1 or not x.is_floating_point() or any(s is not None and s != x.shape[-1:] for s in shapes[1:]):
        raise ValueError(
            f"layer_norm: x {x.dtype} {shapes[0]}, weight {shapes[1]}, bias {shapes[2]}; expected float (..., C), and "
            "(C,) twice or None"
        )
    return _LayerNorm.apply(x, weight_C, bias_C, eps, keep)


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, keep: Keep
    ) -> Tensor:
        rows = rows_of(x)
        needed = any(ctx.needs_input_grad[:3])
        with_codes = needed and keep == "codes"
        y, mean, rstd, codes, scale = layer_norm_operator(rows, weight, bias, eps, with_codes)
        if needed:
            ctx.shape = x.shape
            saved = (codes, scale) if with_codes else (rows, None)
            ctx.save_for_backward(*saved, mean, rstd, weight, bias)
        return y.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, scale, mean, rstd, weight, bias = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        rows = rows_of(grad)
        grad_x = layer_norm_gradient(rows, x, scale, mean, rstd, weight).view(ctx.shape) if need_x else None
        grad_weight = grad_bias = None
        if need_weight or need_bias:
            grad_weight, grad_bias = _affine_gradients(rows, value_of(x, scale, mean.dtype), mean, rstd)
        return (
            grad_x,
            grad_weight.to(weight.dtype) if need_weight and grad_weight is not None else None,
            grad_bias.to(bias.dtype) if need_bias and grad_bias is not None else None,
            None,
            None,
        )


def _affine_gradients(grad_MC: Tensor, x_MC: Tensor, mean_M: Tensor, rstd_M: Tensor) -> tuple[Tensor, Tensor]:
    """Of weight and bias, (C,) each, in the dtype of `mean`."""
    xhat = (x_MC.to(mean_M.dtype) - mean_M[:, None]) * rstd_M[:, None]
    grad = grad_MC.to(mean_M.dtype)
    return (grad * xhat).sum(0), grad.sum(0)


def _fake(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, with_codes: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    mean = x.new_empty(x.shape[0], dtype=compute_dtype(x))
    codes, scale = room_for_codes(x, x.shape[0] if with_codes else None)
    return torch.empty_like(x), mean, torch.empty_like(mean), codes, scale


def _gradient_fake(
    grad: Tensor, x: Tensor, scale: Tensor | None, mean: Tensor, rstd: Tensor, weight: Tensor | None
) -> Tensor:
    return torch.empty_like(grad)


layer_norm_operator = Op("layer_norm", _fake, cost=lambda args, out: [Vector("layer_norm", args["x"].numel())])
layer_norm_gradient = Op(
    "layer_norm_grad", _gradient_fake, cost=lambda args, out: [Vector("layer_norm", args["grad"].numel())]
)
