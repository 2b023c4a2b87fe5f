"""The three products that a float low-rank pair takes of an activation."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.kernels.cost import Arguments, Gemm, Vector, matmul
from intaglio.kernels.registry import Op


def pair_down(x_MC: Tensor, a_RC: Tensor, scale: float = 1.0) -> Tensor:
    """`x (scale a)^T`, (M, R) in the dtype of `x`: an activation into the rank.

    Args:
        x_MC: float (M, C), C contiguous.
        a_RC: float32 (R, C), any strides; `scale a` is rounded to the dtype of `x`.

    Raises:
        ValueError: shapes that do not meet.
    """
    _check("pair_down", x_MC, (x_MC.shape[0], a_RC.shape[0]), a_RC)
    return down(x_MC, a_RC, scale)


def pair_up(x_MC: Tensor, h_MR: Tensor, a_RC: Tensor, scale: float = 1.0) -> None:
    """`x += h (scale a)` in place: one rounding to the dtype of `x`.

    Args:
        x_MC: float (M, C), dense.
        h_MR: (M, R) in the dtype of `x`.
        a_RC: float32 (R, C), any strides.

    Raises:
        ValueError: shapes that do not meet.
    """
    _check("pair_up", x_MC, h_MR.shape, a_RC)
    up(x_MC, h_MR, a_RC, scale)


def pair_sums(x_MC: Tensor, h_MR: Tensor, scale: float = 1.0) -> Tensor:
    """`scale h^T x`, float32 (R, C): sums over tokens, the gradient of a pair.

    Args:
        x_MC: (M, C) in the dtype of `h`, or int8 codes whose scales are in `h`.
        h_MR: float (M, R).

    Raises:
        ValueError: shapes that do not meet.
    """
    _check("pair_sums", x_MC, h_MR.shape, None)
    return sums(x_MC, h_MR, scale)


def _check(name: str, x: Tensor, h_shape: tuple[int, ...], a: Tensor | None) -> None:
    a_shape = (h_shape[-1], x.shape[-1]) if a is None else tuple(a.shape)
    if x.ndim != 2 or len(a_shape) != 2 or tuple(h_shape) != (x.shape[0], a_shape[0]) or a_shape[1] != x.shape[1]:
        raise ValueError(
            f"{name}: x {tuple(x.shape)}, h {tuple(h_shape)}, a {a_shape}; expected (M, C), (M, R), (R, C)"
        )


def _fake_down(x: Tensor, a: Tensor, scale: float) -> Tensor:
    return x.new_empty(x.shape[0], a.shape[0])


def _fake_up(x: Tensor, h: Tensor, a: Tensor, scale: float) -> None:
    return None


def _fake_sums(x: Tensor, h: Tensor, scale: float) -> Tensor:
    return h.new_empty(h.shape[1], x.shape[1], dtype=torch.float32)


def _up_cost(args: Arguments, out: None) -> list[Gemm | Vector]:
    return [matmul(args["h"], args["a"], args["x"]), Vector("add", args["x"].numel())]


down = Op("pair_down", _fake_down, cost=lambda args, out: [matmul(args["x"], args["a"].t(), out)])
up = Op("pair_up", _fake_up, cost=_up_cost, mutates=("x",))
sums = Op("pair_sums", _fake_sums, cost=lambda args, out: [matmul(args["h"].t(), args["x"], out)])
