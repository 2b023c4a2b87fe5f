"""The three products that a low-rank pair takes of an activation, in bfloat16 by the compiled path."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int64, c_void_p

import torch
from torch import Tensor

from intaglio.errors import UserError
from intaglio.kernels import binding
from intaglio.kernels.float_pair import definition
from intaglio.kernels.operators import Operator


class FloatPair(ctypes.Structure):
    """As in `cpu/float_pair.h`."""

    _fields_ = (
        *((name, c_int64) for name in ("rows", "columns", "rank")),
        ("a", c_void_p),
        ("a_rank_stride", c_int64),
        ("a_column_stride", c_int64),
        ("scale", c_float),
        ("x", c_void_p),
        ("x_stride", c_int64),
        ("x_type", c_int64),
        ("h", c_void_p),
        ("sums", c_void_p),
        ("threads", c_int64),
    )


def pair_down(x_MC: Tensor, a_RC: Tensor, scale: float = 1.0) -> Tensor:
    """`x (scale a)^T`, (M, R) in the dtype of `x`: an activation into the rank.

    Args:
        x_MC: float (M, C), C contiguous.
        a_RC: float32 (R, C), any strides; `scale a` is rounded to the dtype of `x`.

    Raises:
        UserError: shapes that do not meet.
    """
    _check("pair_down", x_MC, (x_MC.shape[0], a_RC.shape[0]), a_RC)
    return _down(x_MC, a_RC, scale)


def pair_up(x_MC: Tensor, h_MR: Tensor, a_RC: Tensor, scale: float = 1.0) -> None:
    """`x += h (scale a)` in place: one rounding to the dtype of `x`.

    Args:
        x_MC: float (M, C), dense.
        h_MR: (M, R) in the dtype of `x`.
        a_RC: float32 (R, C), any strides.

    Raises:
        UserError: shapes that do not meet.
    """
    _check("pair_up", x_MC, h_MR.shape, a_RC)
    _up(x_MC, h_MR, a_RC, scale)


def pair_sums(x_MC: Tensor, h_MR: Tensor, scale: float = 1.0) -> Tensor:
    """`scale h^T x`, float32 (R, C): sums over tokens, the gradient of a pair.

    Args:
        x_MC: (M, C) in the dtype of `h`, or int8 codes whose scales are in `h`.
        h_MR: float (M, R).

    Raises:
        UserError: shapes that do not meet.
    """
    _check("pair_sums", x_MC, h_MR.shape, None)
    return _sums(x_MC, h_MR, scale)


def _check(name: str, x: Tensor, h_shape: tuple[int, ...], a: Tensor | None) -> None:
    a_shape = (h_shape[-1], x.shape[-1]) if a is None else tuple(a.shape)
    if x.ndim != 2 or len(a_shape) != 2 or tuple(h_shape) != (x.shape[0], a_shape[0]) or a_shape[1] != x.shape[1]:
        raise UserError(f"{name}: x {tuple(x.shape)}, h {tuple(h_shape)}, a {a_shape}; expected (M, C), (M, R), (R, C)")


def _compiled(*tensors: Tensor) -> ctypes.CDLL | None:
    """The library, where it has code for these: the first in bfloat16, all on a CPU."""
    return binding.compiled(*tensors) if tensors[0].dtype == torch.bfloat16 else None


def _call(x: Tensor, rank: int, **fields: object) -> ctypes.Structure:
    return FloatPair(
        rows=x.shape[0], columns=x.shape[1], rank=rank, x=x.data_ptr(), x_stride=x.stride(0) if len(x) > 1 else 0,
        x_type=binding.TYPES[x.dtype], threads=torch.get_num_threads(), **fields,
    )  # fmt: skip


def _matrix(a: Tensor, scale: float) -> dict[str, object]:
    return {"a": a.data_ptr(), "a_rank_stride": a.stride(0), "a_column_stride": a.stride(1), "scale": scale}


def _compute_down(x: Tensor, a: Tensor, scale: float) -> Tensor:
    kernels = _compiled(x, a)
    if kernels is None or a.dtype != torch.float32:
        return definition.down(x, a, scale)
    x = x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()
    h = x.new_empty(len(x), len(a))
    kernels.intaglio_pair_down(ctypes.byref(_call(x, len(a), h=h.data_ptr(), **_matrix(a, scale))))
    return h


def _compute_up(x: Tensor, h: Tensor, a: Tensor, scale: float) -> None:
    kernels = _compiled(x, h, a)
    if kernels is None or a.dtype != torch.float32 or h.dtype != x.dtype or not x.is_contiguous():
        x.copy_(definition.up(x, h, a, scale))
        return
    h = h.contiguous()
    kernels.intaglio_pair_up(ctypes.byref(_call(x, len(a), h=h.data_ptr(), **_matrix(a, scale))))
    binding.written(x)


def _compute_sums(x: Tensor, h: Tensor, scale: float) -> Tensor:
    kernels = _compiled(h, x)
    if kernels is None or x.dtype not in (torch.bfloat16, torch.int8):
        return definition.sums(x, h, scale)
    x, h = x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous(), h.contiguous()
    sums = h.new_empty(h.shape[1], x.shape[1], dtype=torch.float32)
    kernels.intaglio_pair_sums(
        ctypes.byref(_call(x, h.shape[1], h=h.data_ptr(), sums=sums.data_ptr(), scale=scale))
    )  # fmt: skip
    return sums


def _fake_down(x: Tensor, a: Tensor, scale: float) -> Tensor:
    return x.new_empty(x.shape[0], a.shape[0])


def _fake_up(x: Tensor, h: Tensor, a: Tensor, scale: float) -> None:
    return None


def _fake_sums(x: Tensor, h: Tensor, scale: float) -> Tensor:
    return h.new_empty(h.shape[1], x.shape[1], dtype=torch.float32)


_down = Operator("intaglio::pair_down", _compute_down, _fake_down)
_up = Operator("intaglio::pair_up", _compute_up, _fake_up, mutates=("x",))
_sums = Operator("intaglio::pair_sums", _compute_sums, _fake_sums)
