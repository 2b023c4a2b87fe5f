"""The activations and their gradients, by the fastest path. Kept for the gradient: INT8 codes of the pre-activation."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from intaglio.errors import UnknownChoice, UserError
from intaglio.kernels import binding
from intaglio.kernels.dtypes import compute_dtype, rows_of
from intaglio.kernels.gated.definition import FUNCTIONS, activate, gradient
from intaglio.kernels.operators import Operator
from intaglio.kernels.row_quantizer import Keep, check_keep, kept, value_of


def activation(x: Tensor, function: str = "gelu", *, keep: Keep = "codes") -> Tensor:
    """`f(x)`, in the dtype of `x`.

    Args:
        x: float (..., C).
        function: `gelu`, exact; `gelu_tanh`; `silu`.
        keep: what lies between the passes: `x` as INT8 `codes` with a scale per row, or the `input` itself.

    Raises:
        UserError: an unknown name, or no float.
    """
    return _Activation.apply(_checked(x, function, keep), function, False, keep)


def gated_activation(x: Tensor, function: str = "gelu", *, keep: Keep = "codes") -> Tensor:
    """`a f(g)` (..., C) of `x = [a, g]` (..., 2 C): GEGLU, and SwiGLU in the order of diffusers.

    Args:
        keep: as of `activation`; codes have a scale for each half of a row.

    Raises:
        UserError: an unknown name, no float, or an odd number of columns.
    """
    if _checked(x, function, keep).shape[-1] % 2:
        raise UserError(f"gated_activation: x {tuple(x.shape)} has no two halves; expected (..., 2 C)")
    return _Activation.apply(x, function, True, keep)


def _checked(x: Tensor, function: str, keep: str) -> Tensor:
    check_keep(keep)
    if function not in FUNCTIONS:
        raise UnknownChoice("activation", function, FUNCTIONS)
    if x.ndim < 1 or not x.is_floating_point():
        raise UserError(f"activation: x {x.dtype} {tuple(x.shape)}; expected float (..., C)")
    return x


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, function: str, gated: bool, keep: Keep) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows = rows_of(x)
        y = _gated(rows, function, gated)
        if ctx.needs_input_grad[0]:
            ctx.function, ctx.gated, ctx.shape = function, gated, x.shape
            ctx.save_for_backward(*kept(rows.view(len(y) * (1 + gated), y.shape[1]), keep))
        return y.view(*x.shape[:-1], y.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, scale = ctx.saved_tensors
        rows = rows_of(grad)
        return _gated_grad(rows, x, scale, ctx.function, ctx.gated).view(ctx.shape), None, None, None


def _gated_compute(x: Tensor, function: str, gated: bool) -> Tensor:
    kernels = binding.compiled_at("avx512", x)
    if kernels is None:
        return activate(x, function, gated).to(x.dtype)
    y = x.new_empty(x.shape[0], x.shape[1] // (1 + gated))
    call = binding.Gated(
        x=binding.address(x), type=binding.TYPES[x.dtype], rows=x.shape[0], columns=y.shape[1],
        function=FUNCTIONS.index(function), gated=gated, y=binding.address(y), threads=torch.get_num_threads(),
    )  # fmt: skip
    kernels.intaglio_gated(ctypes.byref(call))
    return y


def _gated_fake(x: Tensor, function: str, gated: bool) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1] // (1 + gated))


_gated = Operator("intaglio::gated", _gated_compute, _gated_fake)


def _gated_grad_compute(grad: Tensor, x: Tensor, scale: Tensor | None, function: str, gated: bool) -> Tensor:
    """`x` (M, C), gated (2 M, C): the halves of a row under each other."""
    rows, columns = grad.shape
    kernels = binding.compiled_at("avx512", grad, scale)
    if kernels is None:
        value = value_of(x, scale, compute_dtype(grad)).view(rows, columns * (1 + gated))
        return gradient(grad, value, function, gated).to(grad.dtype)
    grad_x = grad.new_empty(rows, columns * (1 + gated))
    call = binding.GatedGrad(
        grad=binding.address(grad), x=binding.address(x), type=binding.TYPES[grad.dtype], scale=binding.address(scale),
        rows=rows, columns=columns, function=FUNCTIONS.index(function), gated=gated, grad_x=binding.address(grad_x),
        threads=torch.get_num_threads(),
    )  # fmt: skip
    kernels.intaglio_gated_grad(ctypes.byref(call))
    return grad_x


def _gated_grad_fake(grad: Tensor, x: Tensor, scale: Tensor | None, function: str, gated: bool) -> Tensor:
    return grad.new_empty(grad.shape[0], grad.shape[1] * (1 + gated))


_gated_grad = Operator("intaglio::gated_grad", _gated_grad_compute, _gated_grad_fake)
