"""Two 4-bit codes of a byte, side by side without tearing them apart: even channels before odd ones."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.kernels.weight_product.weight import IntegerWeight


def has_halves(weight: IntegerWeight) -> bool:
    """Signed 4-bit codes that are what is multiplied, the two of a byte neighbouring channels of one tap."""
    plain = weight.zero_point is None and weight.ratio is None and weight.levels is None
    return plain and weight.qdata.dtype == torch.uint8 and weight.shape[2] % 2 == 0


def split(x: Tensor) -> Tensor:
    """Even channels (the last axis) before odd ones."""
    return torch.cat([x[..., 0::2], x[..., 1::2]], dim=-1)


def joined(x: Tensor) -> Tensor:
    """The inverse of `split`."""
    return x.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
