"""Layer norm and its gradient, by the fastest path."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from intaglio.errors import UserError
from intaglio.kernels import binding
from intaglio.kernels.dtypes import affine_operands, compute_dtype, rows_of
from intaglio.kernels.layer_norm.definition import affine_gradients, gradient, normalize, statistics
from intaglio.kernels.operators import Operator
from intaglio.kernels.row_quantizer import Keep, check_keep, codes_of, room_for_codes, value_of


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
        UserError: a shape that does not fit, or no float.
    """
    check_keep(keep)
    shapes = [None if t is None else tuple(t.shape) for t in (x, weight_C, bias_C)]
    if x.ndim < 1 or not x.is_floating_point() or any(s is not None and s != x.shape[-1:] for s in shapes[1:]):
        raise UserError(
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
        y, mean, rstd, codes, scale = _layer_norm(rows, weight, bias, eps, with_codes)
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
        grad_x = _layer_norm_grad(rows, x, scale, mean, rstd, weight).view(ctx.shape) if need_x else None
        grad_weight = grad_bias = None
        if need_weight or need_bias:
            grad_weight, grad_bias = affine_gradients(rows, value_of(x, scale, mean.dtype), mean, rstd)
        return (
            grad_x,
            grad_weight.to(weight.dtype) if need_weight and grad_weight is not None else None,
            grad_bias.to(bias.dtype) if need_bias and grad_bias is not None else None,
            None,
            None,
        )


def _layer_norm_compute(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, with_codes: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, mean, rstd, and the codes and scales of x: empty if not wanted."""
    kernels = binding.compiled_at("avx2", x) and binding.compiled(weight, bias)
    rows, columns = x.shape
    if kernels is None:
        mean, rstd = statistics(x, eps)
        return normalize(x, mean, rstd, weight, bias).to(x.dtype), mean, rstd, *codes_of(x, with_codes)
    weight, bias, affine_type = affine_operands(weight, bias)
    y = torch.empty_like(x)
    mean = x.new_empty(rows, dtype=torch.float32)
    rstd = torch.empty_like(mean)
    codes, scale = room_for_codes(x, rows if with_codes else None)
    call = binding.LayerNorm(
        x=x.data_ptr(), type=binding.TYPES[x.dtype], weight=binding.address(weight), bias=binding.address(bias),
        affine_type=affine_type, rows=rows, columns=columns, eps=eps, y=y.data_ptr(), mean=mean.data_ptr(),
        rstd=rstd.data_ptr(), codes=codes.data_ptr() if with_codes else None, scale=scale.data_ptr(),
        threads=torch.get_num_threads(),
    )  # fmt: skip
    kernels.intaglio_layer_norm(ctypes.byref(call))
    return y, mean, rstd, codes, scale


def _layer_norm_fake(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, with_codes: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    mean = x.new_empty(x.shape[0], dtype=compute_dtype(x))
    codes, scale = room_for_codes(x, x.shape[0] if with_codes else None)
    return torch.empty_like(x), mean, torch.empty_like(mean), codes, scale


_layer_norm = Operator("intaglio::layer_norm", _layer_norm_compute, _layer_norm_fake)


def _layer_norm_grad_compute(
    grad: Tensor, x: Tensor, scale: Tensor | None, mean: Tensor, rstd: Tensor, weight: Tensor | None
) -> Tensor:
    kernels = binding.compiled_at("avx2", grad, mean) and binding.compiled(x, scale, weight)
    if kernels is None:
        return gradient(grad, value_of(x, scale, mean.dtype), mean, rstd, weight).to(grad.dtype)
    weight, _, affine_type = affine_operands(weight, None)
    grad_x = torch.empty_like(grad)
    call = binding.LayerNormGrad(
        grad=grad.data_ptr(), x=x.data_ptr(), type=binding.TYPES[grad.dtype], scale=binding.address(scale),
        weight=binding.address(weight), affine_type=affine_type, mean=mean.data_ptr(), rstd=rstd.data_ptr(),
        rows=x.shape[0], columns=x.shape[1], grad_x=grad_x.data_ptr(), threads=torch.get_num_threads(),
    )  # fmt: skip
    kernels.intaglio_layer_norm_grad(ctypes.byref(call))
    return grad_x


def _layer_norm_grad_fake(
    grad: Tensor, x: Tensor, scale: Tensor | None, mean: Tensor, rstd: Tensor, weight: Tensor | None
) -> Tensor:
    return torch.empty_like(grad)


_layer_norm_grad = Operator("intaglio::layer_norm_grad", _layer_norm_grad_compute, _layer_norm_grad_fake)
