"""By the compiled kernels, in bfloat16."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from intaglio.kernels import binding
from intaglio.kernels.float_pair import op
from intaglio.kernels.structures import structure

FloatPair = structure("FloatPair")


def _call(x: Tensor, rank: int, **fields: object) -> Any:
    return FloatPair(
        rows=x.shape[0], columns=x.shape[1], rank=rank, x=x.data_ptr(), x_stride=x.stride(0) if len(x) > 1 else 0,
        x_type=binding.TYPES[x.dtype], threads=torch.get_num_threads(), **fields,
    )  # fmt: skip


def _matrix(a: Tensor, scale: float) -> dict[str, object]:
    return {"a": a.data_ptr(), "a_rank_stride": a.stride(0), "a_column_stride": a.stride(1), "scale": scale}


def _down(x: Tensor, a: Tensor, scale: float) -> Tensor:
    x = x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()
    h = x.new_empty(len(x), len(a))
    binding.call("intaglio_pair_down", _call(x, len(a), h=h.data_ptr(), **_matrix(a, scale)))
    return h


def _up(x: Tensor, h: Tensor, a: Tensor, scale: float) -> None:
    h = h.contiguous()
    binding.call("intaglio_pair_up", _call(x, len(a), h=h.data_ptr(), **_matrix(a, scale)))
    binding.written(x)


def _sums(x: Tensor, h: Tensor, scale: float) -> Tensor:
    x, h = x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous(), h.contiguous()
    sums = h.new_empty(h.shape[1], x.shape[1], dtype=torch.float32)
    binding.call("intaglio_pair_sums", _call(x, h.shape[1], h=h.data_ptr(), sums=sums.data_ptr(), scale=scale))
    return sums


def _takes_down(x: Tensor, a: Tensor, scale: float) -> bool:
    return x.dtype == torch.bfloat16 and a.dtype == torch.float32


def _takes_up(x: Tensor, h: Tensor, a: Tensor, scale: float) -> bool:
    return x.dtype == h.dtype == torch.bfloat16 and a.dtype == torch.float32 and x.is_contiguous()


def _takes_sums(x: Tensor, h: Tensor, scale: float) -> bool:
    return h.dtype == torch.bfloat16 and x.dtype in (torch.bfloat16, torch.int8)


_SETS = ("avx512bf16", "avx2")
op.down.native(_down, *_SETS, takes=_takes_down, condition="bfloat16")
op.up.native(_up, *_SETS, takes=_takes_up, condition="bfloat16, dense rows")
op.sums.native(_sums, *_SETS, takes=_takes_sums, condition="bfloat16 or INT8")
