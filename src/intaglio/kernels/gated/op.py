"""The activations and their gradients. Kept for the gradient: INT8 codes of the pre-activation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from intaglio.errors import UnknownChoice
from intaglio.kernels.cost import Arguments, Vector
from intaglio.kernels.dtypes import rows_of
from intaglio.kernels.registry import Op
from intaglio.kernels.row_quantizer import Keep, check_keep, room_for_codes

FUNCTIONS = ("gelu", "gelu_tanh", "silu")


def activation(x: Tensor, function: str = "gelu", *, keep: Keep = "codes") -> Tensor:
    """`f(x)`, in the dtype of `x`.

    Args:
        x: float (..., C).
        function: `gelu`, exact; `gelu_tanh`; `silu`.
        keep: what lies between the passes: `x` as INT8 `codes` with a scale per row, or the `input` itself.

    Raises:
        UnknownChoice: a name that is none.
        ValueError: no float.
    """
    return _Activation.apply(_checked(x, function, keep), function, False, keep)


def gated_activation(x: Tensor, function: str = "gelu", *, keep: Keep = "codes") -> Tensor:
    """`a f(g)` (..., C) of `x = [a, g]` (..., 2 C): GEGLU, and SwiGLU in the order of diffusers.

    Args:
        keep: as of `activation`; codes have a scale for each half of a row.

    Raises:
        UnknownChoice: a name that is none.
        ValueError: no float, or an odd number of columns.
    """
    if _checked(x, function, keep).shape[-1] % 2:
        raise ValueError(f"gated_activation: x {tuple(x.shape)} has no two halves; expected (..., 2 C)")
    return _Activation.apply(x, function, True, keep)


def _checked(x: Tensor, function: str, keep: str) -> Tensor:
    check_keep(keep)
    if function not in FUNCTIONS:
        raise UnknownChoice("activation", function, FUNCTIONS)
    if x.ndim < 1 or not x.is_floating_point():
        raise ValueError(f"activation: x {x.dtype} {tuple(x.shape)}; expected float (..., C)")
    return x


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, function: str, gated: bool, keep: Keep) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows = rows_of(x)
        with_codes = ctx.needs_input_grad[0] and keep == "codes"
        y, codes, scale = gated_operator(rows, function, gated, with_codes)
        if ctx.needs_input_grad[0]:
            ctx.function, ctx.gated, ctx.shape = function, gated, x.shape
            ctx.save_for_backward(*((codes, scale) if with_codes else (rows, None)))
        return y.view(*x.shape[:-1], y.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, scale = ctx.saved_tensors
        rows = rows_of(grad)
        return gated_gradient(rows, x, scale, ctx.function, ctx.gated).view(ctx.shape), None, None, None


def _fake(x: Tensor, function: str, gated: bool, with_codes: bool) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape[0], x.shape[1] // (1 + gated)), *room_for_codes(
        x, x.shape[0] * (1 + gated) if with_codes else None
    )


def _gradient_fake(grad: Tensor, x: Tensor, scale: Tensor | None, function: str, gated: bool) -> Tensor:
    return grad.new_empty(grad.shape[0], grad.shape[1] * (1 + gated))


def _cost(args: Arguments, y: Tensor) -> list[Vector]:
    """The activation, with the product of what it gates."""
    if args["function"] == "silu":
        return [Vector("silu", y.numel()), *([Vector("mul", y.numel())] if args["gated"] else [])]
    return [Vector("geglu" if args["gated"] else "gelu", y.numel())]


gated_operator = Op("gated", _fake, cost=lambda args, out: _cost(args, out[0]))
gated_gradient = Op("gated_grad", _gradient_fake, cost=lambda args, out: _cost(args, args["grad"]))
