"""A fixed rotation of neighbouring input channels, which spreads outliers over a group before it is quantized.

The regular Hadamard matrix H of 4^n rows: Kronecker powers of a symmetric 4 x 4 seed, divided by 2^n. It is its own
transpose and its own inverse, so that `y = W x = (W H) (H x)`. ComfyUI's `convrot` is this, with groups of 256
(Comfy-Org/comfy-kitchen `backends/eager/quantization.py`).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

_SEED = ((1.0, 1.0, 1.0, -1.0), (1.0, 1.0, -1.0, 1.0), (1.0, -1.0, 1.0, 1.0), (-1.0, 1.0, 1.0, 1.0))


def rotate(x: Tensor, size: int) -> Tensor:
    """`x` (..., K) with each `size` neighbours of the last axis multiplied by H; K is a multiple of `size`."""
    matrix = hadamard(size, x.dtype, x.device)
    return (x.reshape(*x.shape[:-1], -1, size) @ matrix).reshape(x.shape)


@lru_cache(maxsize=8)
def hadamard(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """H (size, size), a power of 4 rows. Its entries are powers of two: exact in every dtype."""
    seed = torch.tensor(_SEED)
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.kron(matrix, seed)
    return (matrix / size**0.5).to(dtype=dtype, device=device)
