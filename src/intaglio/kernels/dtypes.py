"""In what the row-wise operations compute, and how their operands lie."""

from __future__ import annotations

import torch
from torch import Tensor


def compute_dtype(x: Tensor) -> torch.dtype:
    """float64 where `x` is, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def float32(tensor: Tensor | None) -> Tensor | None:
    """A dense float32 tensor for the compiled code: itself where it is one."""
    return None if tensor is None else tensor.to(torch.float32).contiguous()


def rows_of(x: Tensor) -> Tensor:
    """(..., C) -> (M, C), dense: a view where `x` is."""
    return (x if x.ndim > 1 else x[None]).flatten(0, -2).contiguous()
