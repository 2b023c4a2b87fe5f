"""By the compiled kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from intaglio.kernels import binding
from intaglio.kernels.low_rank import op
from intaglio.kernels.structures import structure
from intaglio.quantizers.integer_step import max_code

LowRank, TokenSums = structure("LowRank"), structure("TokenSums")


def _dense(matrix: Tensor) -> Tensor:
    """With one of its strides 1."""
    return matrix if 1 in matrix.stride() else matrix.contiguous()


def _rows(matrix: Tensor) -> Tensor:
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def _flat(scale: Tensor) -> Tensor:
    return scale.float().contiguous()


def _update(
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
    binding.call("intaglio_low_rank", call)
    binding.written(out)
    return h, codes


def _first(x: Tensor, first: Tensor, h: Tensor) -> Any:
    """The call that makes `h` alone."""
    return LowRank(
        x=binding.address(x), x_stride=x.stride(0), rows=x.shape[0], columns=x.shape[1], rank=first.shape[0],
        first=binding.address(first), first_rank_stride=first.stride(0), first_column_stride=first.stride(1),
        h=binding.address(h), groups=1, threads=torch.get_num_threads(),
    )  # fmt: skip


def _product(x: Tensor, first: Tensor) -> Tensor:
    x, first = _rows(x), _dense(first)
    h = x.new_empty(x.shape[0], first.shape[0], dtype=torch.int32)
    binding.call("intaglio_low_rank", _first(x, first, h))
    return h


def _gradient(
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
    h, right = h.contiguous(), _rows(right)
    left_scale, right_scale, rank_scale = map(_flat, (left_scale, right_scale, rank_scale))
    divisor = None if divisor is None else _flat(divisor)
    shape = (right.shape[1], h.shape[1]) if transposed else (h.shape[1], right.shape[1])
    out = h.new_empty(shape, dtype=torch.float32)
    rank_stride, column_stride = out.stride()[::-1] if transposed else out.stride()
    call = TokenSums(
        h=binding.address(h), rows=h.shape[0], rank=h.shape[1], left_scale=binding.address(left_scale),
        right_scale=binding.address(right_scale), groups=left_scale.shape[0], rank_scale=binding.address(rank_scale),
        max_code=max_code(bits), power_of_two=power_of_two, stochastic=seed is not None,
        seed=0 if seed is None else int(seed.item()) & 0xFFFFFFFF, right=binding.address(right),
        right_stride=right.stride(0), columns=right.shape[1], divisor=binding.address(divisor), multiplier=multiplier,
        out=binding.address(out), out_rank_stride=rank_stride, out_column_stride=column_stride,
        threads=torch.get_num_threads(),
    )  # fmt: skip
    binding.call("intaglio_token_sums", call)
    return out


op.update.native(
    _update, "avx512bf16", "avx512", takes=lambda out, *_: out.dtype in (torch.float32, torch.bfloat16),
    condition="into float32 or bfloat16",
)  # fmt: skip
op.product.native(_product, "avx512bf16", "avx512")
op.gradient.native(_gradient, "avx512", takes=lambda h, left_scale, *_: len(left_scale) > 0, condition="not empty")
