"""What the product is: in torch, by float32 products that are exact; and once more in NumPy, for who doubts it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from intaglio.kernels.int8_matmul.op import op

EXACT_IN_FLOAT32 = 2**24 // 128**2
"""1,024 products of at most 128 * 128: every partial sum is an integer that float32 holds, in whatever order."""


def exact_product(x_MR: Tensor, w_RC: Tensor) -> Tensor:
    """`x w`, int8 -> int32."""
    total = torch.zeros(x_MR.shape[0], w_RC.shape[1], dtype=torch.int32, device=x_MR.device)
    for start in range(0, x_MR.shape[1], EXACT_IN_FLOAT32):
        part = slice(start, start + EXACT_IN_FLOAT32)
        total += (x_MR[:, part].float() @ w_RC[part].float()).int()
    return total


@op.reference
def matmul(x: Tensor, w: Tensor) -> Tensor:
    return exact_product(x, w.T)


def product(x_MK: np.ndarray, w_NK: np.ndarray) -> np.ndarray:
    """int8 (M, K), int8 (N, K) -> int32 (M, N): sums over K in int64, which must fit int32."""
    sums = x_MK.astype(np.int64) @ w_NK.astype(np.int64).T
    if sums.size and np.abs(sums).max() > np.iinfo(np.int32).max:
        raise OverflowError("a sum does not fit int32")
    return sums.astype(np.int32)
