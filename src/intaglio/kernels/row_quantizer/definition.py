"""What rounding rows to INT8 means, in torch: slow, and what the fast path is compared with bit for bit.

    v = x * factor      m = max |v| of the group      scale = m / 127      code = clamp(round(v * (127 / m)), -127, 127)

Every operation is rounded to float32 once, in this order. Nearest: ties to even. Stochastic: floor(v * (127 / m) + u),
where u is 24 bits of the MurmurHash3 finalizer over the element's index and the seed, times 2**-24: the same numbers on
every machine and for every number of threads. A group below `SMALLEST` counts as zero: codes 0, scale 1. A group that
is not finite has codes 0 and scale NaN, so that whatever is computed from it is NaN too.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = 2.0**-119
"""127 / SMALLEST is finite in float32."""


def round_rows(x: Tensor, factor: Tensor | None, seed: int | None) -> tuple[Tensor, Tensor]:
    """`x` (G, R, C) -> codes int8 (G, R, C), scale float32 (G,)."""
    groups = len(x)
    v = x.float()
    if factor is not None:
        v = v * factor.repeat_interleave(groups // len(factor), 0)[:, None]
    absmax = v.abs().amax((1, 2)) if v.numel() else v.new_zeros(groups)
    finite, small = torch.isfinite(absmax), absmax < SMALLEST
    used = torch.where(finite & ~small, absmax, torch.ones_like(absmax))
    inverse = torch.full_like(used, 127.0) / used  # torch takes 127.0 / used as a product with the reciprocal
    v = torch.where((finite & ~small)[:, None, None], v, torch.zeros_like(v)) * inverse[:, None, None]
    if seed is None:
        rounded = v.round()
    else:
        index = torch.arange(v.numel(), dtype=torch.int64).view(v.shape)
        rounded = (v + uniform(index, seed)).floor()
        rounded[~finite | small] = 0
    scale = torch.where(small, torch.ones_like(absmax), absmax / 127.0)
    scale[~finite] = torch.nan
    return rounded.clamp(-127, 127).to(torch.int8), scale


def uniform(index: Tensor, seed: int) -> Tensor:
    """float32 in [0, 1) for each int64 index below 2**32."""
    mask = 0xFFFFFFFF
    h = (index & mask) ^ (seed & mask)
    h = _times(h ^ (h >> 16), 0x85EBCA6B)
    h = _times(h ^ (h >> 13), 0xC2B2AE35)
    return ((h ^ (h >> 16)) >> 8).float() * 2.0**-24


def _times(h: Tensor, factor: int) -> Tensor:
    """h * factor modulo 2**32, without leaving int64."""
    return (((h >> 16) * factor & 0xFFFF) << 16) + (h & 0xFFFF) * factor & 0xFFFFFFFF
