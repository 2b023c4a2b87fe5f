"""The small products of a low-rank pair, by the fastest exact path."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from intaglio.errors import UserError
from intaglio.kernels import binding
from intaglio.kernels.codes.quantizer import check_bits
from intaglio.kernels.int8_matmul import int8_matmul
from intaglio.kernels.int8_matmul.checks import check
from intaglio.kernels.low_rank import definition
from intaglio.kernels.operators import Operator, watched
from intaglio.quantizers.integer_step import max_code

_pointer, _int64 = ctypes.c_void_p, ctypes.c_int64


class _LowRank(ctypes.Structure):
    """`LowRank` of `cpu/low_rank.h`."""

    _fields_ = (
        ("x", _pointer), ("x_stride", _int64), ("rows", _int64), ("columns", _int64), ("rank", _int64),
        ("first", _pointer), ("first_rank_stride", _int64), ("first_column_stride", _int64), ("h", _pointer),
        ("second", _pointer), ("second_column_stride", _int64), ("second_rank_stride", _int64),
        ("out_columns", _int64), ("row_scale", _pointer), ("groups", _int64), ("first_scale", _pointer),
        ("second_scale", _pointer), ("max_code", _int64), ("power_of_two", _int64), ("codes", _pointer),
        ("column_scale", _pointer), ("out", _pointer), ("out_type", _int64), ("out_stride", _int64),
        ("threads", _int64),
    )  # fmt: skip


class _TokenSums(ctypes.Structure):
    """`TokenSums` of `cpu/low_rank.h`."""

    _fields_ = (
        ("h", _pointer), ("rows", _int64), ("rank", _int64), ("left_scale", _pointer), ("right_scale", _pointer),
        ("groups", _int64), ("rank_scale", _pointer), ("max_code", _int64), ("power_of_two", _int64),
        ("stochastic", _int64), ("seed", ctypes.c_uint64), ("right", _pointer), ("right_stride", _int64),
        ("columns", _int64), ("divisor", _pointer), ("multiplier", ctypes.c_double), ("out", _pointer),
        ("out_rank_stride", _int64), ("out_column_stride", _int64), ("threads", _int64),
    )  # fmt: skip


def low_rank_update(
    out_MO: Tensor,
    x_MC: Tensor,
    first_rC: Tensor,
    second_Or: Tensor,
    *,
    row_scale: Tensor,
    first_scale: Tensor,
    second_scale: Tensor,
    column_scale: Tensor | None,
    bits: int,
    power_of_two: bool,
) -> Tensor:
    """Add a pair's share to a result, in place:

        h = x first^T      c = codes of h * row_scale * first_scale * second_scale      out += c second^T * scales

    Args:
        out_MO: float32 or bfloat16, dense rows.
        x_MC, first_rC, second_Or: int8 codes; the pair's matrices or their transposed views.
        row_scale: float32 (G,), of x, for each of G equal runs of rows, which also share a scale of `c`.
        first_scale, second_scale: float32 (r,).
        column_scale: float32 (O,) of the result; None for 1.
        bits: of `c`, 2 .. 8.

    Returns:
        h, int32 (M, r), exact.

    Raises:
        UserError: a dtype or shape that does not fit, or a sum that int32 may not hold.
    """
    check(x_MC, first_rC, reduction=1)
    check_bits("low_rank_update", bits)
    rank, columns = first_rC.shape[0], second_Or.shape[0]
    came, wanted = [tuple(first_scale.shape), tuple(second_scale.shape)], [(rank,), (rank,)]
    if column_scale is not None:
        came, wanted = [*came, tuple(column_scale.shape)], [*wanted, (columns,)]
    if second_Or.dtype != torch.int8 or came != wanted:
        raise UserError(
            f"low_rank_update: second {second_Or.dtype}, scales of first, second and columns {came}; "
            f"expected torch.int8, {rank} scales twice and {columns}"
        )
    shapes = (first_rC.shape[0], second_Or.shape[0]), tuple(out_MO.shape), row_scale.shape[0]
    expected = (second_Or.shape[1], out_MO.shape[1]), (x_MC.shape[0], second_Or.shape[0]), max(1, row_scale.shape[0])
    dense = out_MO.stride(1) == 1 and out_MO.stride(0) >= out_MO.shape[1]
    if shapes != expected or x_MC.shape[0] % max(1, row_scale.shape[0]) or not dense:
        raise UserError(
            f"low_rank_update: x {tuple(x_MC.shape)}, first {tuple(first_rC.shape)}, second {tuple(second_Or.shape)}, "
            f"out {tuple(out_MO.shape)}, {row_scale.shape[0]} row scales; expected (M, C), (r, C), (O, r), (M, O) and "
            "a scale for each of equal runs of rows"
        )
    h, _ = (_low_rank_update if watched() or not out_MO.is_cpu else _run_low_rank_update)(
        out_MO, x_MC, first_rC, second_Or, row_scale, first_scale, second_scale, column_scale, bits, power_of_two
    )
    return h


def rank_product(x_MC: Tensor, first_rC: Tensor) -> Tensor:
    """`x first^T`: int8 (M, C), int8 (r, C) -> int32 (M, r), exact; for few columns what `int8_matmul` is for many."""
    check(x_MC, first_rC, reduction=1)
    return _rank_product(x_MC, first_rC)


def token_gradient(
    h_Mr: Tensor,
    right_MC: Tensor,
    *,
    left_scale: Tensor,
    right_scale: Tensor,
    rank_scale: Tensor,
    bits: int,
    power_of_two: bool,
    divisor: Tensor | None = None,
    multiplier: float = 1.0,
    seed: Tensor | None = None,
    transposed: bool = False,
) -> Tensor:
    """The gradient of one of a pair's matrices, summed over tokens:

        c = codes by column of h * left_scale * right_scale * rank_scale      c^T right * scale / divisor * multiplier

    Args:
        h_Mr: int32; `right_MC`: int8 codes.
        left_scale, right_scale: float32 (G,), for each of G equal runs of rows: what h and right are in units of.
        rank_scale: float32 (r,).
        bits: of `c`, 2 .. 8.
        divisor: float32 (C,) or None for 1.
        seed: int64 scalar of the stochastic rounding of `c`; None rounds half to even.
        transposed: give (C, r).

    Returns:
        float32 (r, C): exact sums, then float64 in the order written, rounded once.
    """
    if h_Mr.dtype != torch.int32 or right_MC.dtype != torch.int8 or h_Mr.shape[0] != right_MC.shape[0]:
        raise UserError(
            f"token_gradient: h {h_Mr.dtype} {tuple(h_Mr.shape)}, right {right_MC.dtype} {tuple(right_MC.shape)}; "
            "expected int32 (M, r) and int8 (M, C)"
        )
    check_bits("token_gradient", bits)
    (rows, rank), groups = h_Mr.shape, len(left_scale)
    came = [tuple(t.shape) for t in (left_scale, right_scale, rank_scale)]
    expected = [(groups,), (groups,), (rank,)]
    if divisor is not None:
        came, expected = [*came, tuple(divisor.shape)], [*expected, (right_MC.shape[1],)]
    if came != expected or (rows % groups if groups else rows):
        raise UserError(
            f"token_gradient: scales of left, right and rank, and divisor {came} for {rows} rows of rank {rank} by "
            f"{right_MC.shape[1]} columns; expected one for each of equal runs of rows twice, one a rank, one a column"
        )
    return _token_gradient(
        h_Mr, left_scale, right_scale, rank_scale, right_MC, divisor, multiplier, bits, power_of_two, seed, transposed
    )


def _kernels(*tensors: Tensor | None) -> ctypes.CDLL | None:
    return binding.compiled(*tensors) if binding.reaches("avx512") else None


def _dense(matrix: Tensor) -> Tensor:
    """With one of its strides 1."""
    return matrix if 1 in matrix.stride() else matrix.contiguous()


def _rows(matrix: Tensor) -> Tensor:
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def _flat(scale: Tensor) -> Tensor:
    return scale.float().contiguous()


def _run_low_rank_update(
    out: Tensor,
    x: Tensor,
    first: Tensor,
    second: Tensor,
    row_scale: Tensor,
    first_scale: Tensor,
    second_scale: Tensor,
    column_scale: Tensor | None,
    bits: int,
    power_of_two: bool,
) -> tuple[Tensor, Tensor]:
    kernels = _kernels(out, x, first, second, row_scale, first_scale, second_scale, column_scale)
    if kernels is None or out.dtype not in (torch.float32, torch.bfloat16):
        return definition.update(
            out, x, first, second, row_scale, first_scale, second_scale, column_scale, bits, power_of_two
        )
    x, first, second = _rows(x), _dense(first), _dense(second)
    row_scale, first_scale, second_scale = map(_flat, (row_scale, first_scale, second_scale))
    column_scale = None if column_scale is None else _flat(column_scale)
    h = x.new_empty(x.shape[0], first.shape[0], dtype=torch.int32)
    codes = torch.empty_like(h, dtype=torch.int8)
    call = _first(x, first, h)
    call.second, call.out_columns = binding.address(second), second.shape[0]
    call.second_column_stride, call.second_rank_stride = second.stride()
    call.row_scale, call.groups = binding.address(row_scale), row_scale.shape[0]
    call.first_scale, call.second_scale = binding.address(first_scale), binding.address(second_scale)
    call.max_code, call.power_of_two = max_code(bits), power_of_two
    call.codes, call.column_scale = binding.address(codes), binding.address(column_scale)
    call.out, call.out_type, call.out_stride = binding.address(out), binding.TYPES[out.dtype], out.stride(0)
    kernels.intaglio_low_rank(ctypes.byref(call))
    binding.written(out)
    return h, codes


def _first(x: Tensor, first: Tensor, h: Tensor) -> _LowRank:
    """The call that makes `h` alone."""
    return _LowRank(
        x=binding.address(x), x_stride=x.stride(0), rows=x.shape[0], columns=x.shape[1], rank=first.shape[0],
        first=binding.address(first), first_rank_stride=first.stride(0), first_column_stride=first.stride(1),
        h=binding.address(h), groups=1, threads=torch.get_num_threads(),
    )  # fmt: skip


_low_rank_update = torch.library.custom_op("intaglio::low_rank_update", _run_low_rank_update, mutates_args=("out",))


@_low_rank_update.register_fake
def _(out, x, first, second, row_scale, first_scale, second_scale, column_scale, bits, power_of_two):  # type: ignore[no-untyped-def]
    h = x.new_empty(x.shape[0], first.shape[0], dtype=torch.int32)
    return h, torch.empty_like(h, dtype=torch.int8)


def _run_rank_product(x: Tensor, first: Tensor) -> Tensor:
    kernels = _kernels(x, first)
    if kernels is None:
        return int8_matmul(x, first)
    x, first = _rows(x), _dense(first)
    h = x.new_empty(x.shape[0], first.shape[0], dtype=torch.int32)
    kernels.intaglio_low_rank(ctypes.byref(_first(x, first, h)))
    return h


def _fake_rank_product(x, first):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape[0], first.shape[0], dtype=torch.int32)


def _run_token_gradient(
    h: Tensor,
    left_scale: Tensor,
    right_scale: Tensor,
    rank_scale: Tensor,
    right: Tensor,
    divisor: Tensor | None,
    multiplier: float,
    bits: int,
    power_of_two: bool,
    seed: Tensor | None,
    transposed: bool,
) -> Tensor:
    kernels = _kernels(h, right, left_scale, right_scale, rank_scale, divisor)
    if kernels is None or not len(left_scale):
        value = definition.gradient(
            h, left_scale, right_scale, rank_scale, right, divisor, multiplier, bits, power_of_two, seed
        )
        return value.T.contiguous() if transposed else value
    h, right = h.contiguous(), _rows(right)
    left_scale, right_scale, rank_scale = map(_flat, (left_scale, right_scale, rank_scale))
    divisor = None if divisor is None else _flat(divisor)
    shape = (right.shape[1], h.shape[1]) if transposed else (h.shape[1], right.shape[1])
    out = h.new_empty(shape, dtype=torch.float32)
    rank_stride, column_stride = out.stride()[::-1] if transposed else out.stride()
    call = _TokenSums(
        h=binding.address(h), rows=h.shape[0], rank=h.shape[1], left_scale=binding.address(left_scale),
        right_scale=binding.address(right_scale), groups=left_scale.shape[0], rank_scale=binding.address(rank_scale),
        max_code=max_code(bits), power_of_two=power_of_two, stochastic=seed is not None,
        seed=0 if seed is None else int(seed.item()) & 0xFFFFFFFF, right=binding.address(right),
        right_stride=right.stride(0), columns=right.shape[1], divisor=binding.address(divisor), multiplier=multiplier,
        out=binding.address(out), out_rank_stride=rank_stride, out_column_stride=column_stride,
        threads=torch.get_num_threads(),
    )  # fmt: skip
    kernels.intaglio_token_sums(ctypes.byref(call))
    return out


def _fake_token_gradient(
    h, left_scale, right_scale, rank_scale, right, divisor, multiplier, bits, power_of_two, seed, transposed
):  # type: ignore[no-untyped-def]
    shape = (right.shape[1], h.shape[1]) if transposed else (h.shape[1], right.shape[1])
    return h.new_empty(shape, dtype=torch.float32)


_rank_product = Operator("intaglio::rank_product", _run_rank_product, _fake_rank_product)
_token_gradient = Operator("intaglio::token_gradient", _run_token_gradient, _fake_token_gradient)
