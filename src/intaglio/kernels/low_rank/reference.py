"""What the products of a low-rank pair are, in torch over exact integer products: slow, and what the fast path is
compared with bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.kernels.int8_matmul import MAX_REDUCTION, int8_matmul
from intaglio.kernels.low_rank import op
from intaglio.quantizers.activations import quantize_columns, quantize_groups


@op.update.reference
def update(
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
    """Every operation on floats in the order written here."""
    h = int8_matmul(x, first)
    rank_scale = first_scale.double() * second_scale.double()
    rows = len(x) // max(1, len(row_scale))
    real = h.double() * (row_scale.double().repeat_interleave(rows)[:, None] * rank_scale)
    codes, scale = quantize_groups(real, bits, len(row_scale), power_of_two=power_of_two)
    value = int8_matmul(codes, second).float() * scale.float().repeat_interleave(rows, 0)
    if column_scale is not None:
        value = value * column_scale
    out.copy_(out.float() + value)
    return h, codes


@op.product.reference
def product(x: Tensor, first: Tensor) -> Tensor:
    return int8_matmul(x, first)


@op.gradient.reference
def gradient(
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
    row_scale = (left_scale.double() * right_scale.double()).repeat_interleave(len(h) // max(1, len(left_scale)))
    real = h.double() * (row_scale[:, None] * rank_scale.double())
    codes, scale = quantize_columns(real, bits, power_of_two=power_of_two, seed=seed)
    value = sum_over_tokens(codes, right) * scale.T
    if divisor is not None:
        value = value / divisor.double()
    value = (value * multiplier).float()
    return value.T.contiguous() if transposed else value


def sum_over_tokens(left_MR: Tensor, right_MC: Tensor) -> Tensor:
    """`left^T right`, float64 (R, C), exact: INT32 sums of at most `MAX_REDUCTION` tokens each."""
    parts = zip(left_MR.split(MAX_REDUCTION), right_MC.split(MAX_REDUCTION), strict=True)
    return torch.stack([int8_matmul(left.T, right.T).double() for left, right in parts]).sum(0)
