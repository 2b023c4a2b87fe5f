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
from intaglio.kernels.row_quantizer import Keep, check_keep, codes_of, room_for_codes, value_of


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
        with_codes = ctx.needs_input_grad[0] and keep == "codes"
        y, codes, scale = _gated(rows, function, gated, with_codes)
        if ctx.needs_input_grad[0]:
            ctx.function, ctx.gated, ctx.shape = function, gated, x.shape
            ctx.save_for_backward(*((codes, scale) if with_codes else (rows, None)))
        return y.view(*x.shape[:-1], y.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, scale = ctx.saved_tensors
        rows = rows_of(grad)
        return _gated_grad(rows, x, scale, ctx.function, ctx.gated).view(ctx.shape), None, None, None


def _gated_compute(x: Tensor, function: str, gated: bool, with_codes: bool) -> tuple[Tensor, Tensor, Tensor]:
    """y, and the codes of x with a scale for each half of a row: empty if not wanted."""
    kernels = binding.compiled_at("avx2", x)
    rows, columns = x.shape[0], x.shape[1] // (1 + gated)
    if kernels is None:
        codes, scale = codes_of(x.view(rows * (1 + gated), columns), with_codes)
        return activate(x, function, gated).to(x.dtype), codes.view(x.shape) if with_codes else codes, scale
    y = x.new_empty(rows, columns)
    codes, scale = room_for_codes(x, rows * (1 + gated) if with_codes else None)
    call = binding.Gated(
        x=x.data_ptr(), type=binding.TYPES[x.dtype], rows=rows, columns=columns, function=FUNCTIONS.index(function),
        gated=gated, y=y.data_ptr(), codes=codes.data_ptr() if with_codes else None, scale=scale.data_ptr(),
        threads=torch.get_num_threads(),
    )  # fmt: skip
    kernels.intaglio_gated(ctypes.byref(call))
    return y, codes, scale


def _gated_fake(x: Tensor, function: str, gated: bool, with_codes: bool) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape[0], x.shape[1] // (1 + gated)), *room_for_codes(
        x, x.shape[0] * (1 + gated) if with_codes else None
    )


_gated = Operator("intaglio::gated", _gated_compute, _gated_fake)


def _gated_grad_compute(grad: Tensor, x: Tensor, scale: Tensor | None, function: str, gated: bool) -> Tensor:
    """`x` (M, C), gated (M, 2 C), whose codes have a scale for each half of a row."""
    rows, columns = grad.shape
    kernels = binding.compiled_at("avx2", grad, scale)
    if kernels is None:
        value = value_of(x.view(rows * (1 + gated), columns), scale, compute_dtype(grad)).view(x.shape)
        return gradient(grad, value, function, gated).to(grad.dtype)
    grad_x = grad.new_empty(rows, columns * (1 + gated))
    call = binding.GatedGrad(
        grad=grad.data_ptr(), x=x.data_ptr(), type=binding.TYPES[grad.dtype], scale=binding.address(scale),
        rows=rows, columns=columns, function=FUNCTIONS.index(function), gated=gated, grad_x=grad_x.data_ptr(),
        threads=torch.get_num_threads(),
    )  # fmt: skip
    kernels.intaglio_gated_grad(ctypes.byref(call))
    return grad_x


def _gated_grad_fake(grad: Tensor, x: Tensor, scale: Tensor | None, function: str, gated: bool) -> Tensor:
    return grad.new_empty(grad.shape[0], grad.shape[1] * (1 + gated))


_gated_grad = Operator("intaglio::gated_grad", _gated_grad_compute, _gated_grad_fake)
