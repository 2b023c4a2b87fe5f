"""In what the row-wise operations compute, and how their operands lie."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.kernels import binding


def compute_dtype(x: Tensor) -> torch.dtype:
    """float64 where `x` is, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def affine_operands(weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None, int]:
    """Both as the compiled code reads them, dense and of one dtype; and that as it names it (`binding.TYPES`)."""
    dtypes = {t.dtype for t in (weight, bias) if t is not None}
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    if dtype not in (torch.float32, torch.bfloat16):
        dtype = torch.float32
    weight, bias = (None if t is None else t.to(dtype).contiguous() for t in (weight, bias))
    return weight, bias, binding.TYPES[dtype]


def rows_of(x: Tensor) -> Tensor:
    """(..., C) -> (M, C), dense: a view where `x` is."""
    return (x if x.ndim > 1 else x[None]).flatten(0, -2).contiguous()


def is_narrow(*tensors: Tensor) -> bool:
    """Whether the compiled row-wise operations read these dtypes."""
    return all(t.dtype in binding.TYPES for t in tensors)
