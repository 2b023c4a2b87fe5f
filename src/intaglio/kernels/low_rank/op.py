"""The small products of a low-rank pair in INT8 x INT8 -> INT32, each fused with the roundings beside it."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.kernels.codes.op import check_bits
from intaglio.kernels.cost import Arguments, Gemm, Vector, matmul
from intaglio.kernels.int8_matmul.op import check
from intaglio.kernels.registry import Op


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
        ValueError: a dtype or shape that does not fit, or a sum that int32 may not hold.
    """
    check(x_MC, first_rC)
    check_bits("low_rank_update", bits)
    rank, columns = first_rC.shape[0], second_Or.shape[0]
    came, wanted = [tuple(first_scale.shape), tuple(second_scale.shape)], [(rank,), (rank,)]
    if column_scale is not None:
        came, wanted = [*came, tuple(column_scale.shape)], [*wanted, (columns,)]
    if second_Or.dtype != torch.int8 or came != wanted:
        raise ValueError(
            f"low_rank_update: second {second_Or.dtype}, scales of first, second and columns {came}; "
            f"expected torch.int8, {rank} scales twice and {columns}"
        )
    shapes = (first_rC.shape[0], second_Or.shape[0]), tuple(out_MO.shape), row_scale.shape[0]
    expected = (second_Or.shape[1], out_MO.shape[1]), (x_MC.shape[0], second_Or.shape[0]), max(1, row_scale.shape[0])
    dense = out_MO.stride(1) == 1 and out_MO.stride(0) >= out_MO.shape[1]
    if shapes != expected or x_MC.shape[0] % max(1, row_scale.shape[0]) or not dense:
        raise ValueError(
            f"low_rank_update: x {tuple(x_MC.shape)}, first {tuple(first_rC.shape)}, second {tuple(second_Or.shape)}, "
            f"out {tuple(out_MO.shape)}, {row_scale.shape[0]} row scales; expected (M, C), (r, C), (O, r), (M, O) and "
            "a scale for each of equal runs of rows"
        )
    h, _ = update(
        out_MO, x_MC, first_rC, second_Or, row_scale, first_scale, second_scale, column_scale, bits, power_of_two
    )
    return h


def rank_product(x_MC: Tensor, first_rC: Tensor) -> Tensor:
    """`x first^T`: int8 (M, C), int8 (r, C) -> int32 (M, r), exact; for few columns what `int8_matmul` is for many."""
    check(x_MC, first_rC)
    return product(x_MC, first_rC)


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
        raise ValueError(
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
        raise ValueError(
            f"token_gradient: scales of left, right and rank, and divisor {came} for {rows} rows of rank {rank} by "
            f"{right_MC.shape[1]} columns; expected one for each of equal runs of rows twice, one a rank, one a column"
        )
    return gradient(
        h_Mr, left_scale, right_scale, rank_scale, right_MC, divisor, multiplier, bits, power_of_two, seed, transposed
    )


def _fake_update(
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
    h = x.new_empty(x.shape[0], first.shape[0], dtype=torch.int32)
    return h, torch.empty_like(h, dtype=torch.int8)


def _update_cost(args: Arguments, out: tuple[Tensor, Tensor]) -> list[Gemm | Vector]:
    """Both small products of a pair in one direction, what is between them, and the sum."""
    h, codes = out
    return [
        matmul(args["x"], args["first"].t(), h),
        Vector("quantize", codes.numel()),
        matmul(codes, args["second"].t(), None),
        Vector("add", args["out"].numel()),
    ]


def _fake_product(x: Tensor, first: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], first.shape[0], dtype=torch.int32)


def _fake_gradient(
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
    shape = (right.shape[1], h.shape[1]) if transposed else (h.shape[1], right.shape[1])
    return h.new_empty(shape, dtype=torch.float32)


def _gradient_cost(args: Arguments, out: Tensor) -> list[Gemm | Vector]:
    h, right = args["h"], args["right"]
    gemm = Gemm(None, right, out, h.shape[1], right.shape[1], len(h), pass_name="grad_weight")
    return [Vector("quantize", h.numel()), gemm]


update = Op("low_rank_update", _fake_update, cost=_update_cost, mutates=("out",))
product = Op("rank_product", _fake_product, cost=lambda args, out: [matmul(args["x"], args["first"].t(), out)])
gradient = Op("token_gradient", _fake_gradient, cost=_gradient_cost)
