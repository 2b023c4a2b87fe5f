"""torch's own INT8 product, `torch._int_mm`, and whether it serves on this machine.

oneDNN, which computes it, picks the processor's instructions by itself. Without VNNI those add two products of an
unsigned and a signed byte in 16 bits, and saturate: exact where one side has 4 bits (2 * 255 * 8 < 2**15), not where
both have 8. Elsewhere, and in other versions of torch, it is a plain loop. So what it does here is tried, once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

_ROWS = (1, 3, 64)
_STEPS, _COLUMNS = 640, 640
"""Of the products that are tried: a layer's."""


def product(x_MK: Tensor, w_KN: Tensor) -> Tensor:
    """`x w`, int8 -> int32, of what `takes` allows, any strides.

    torch's own knows dense matrices by their strides alone, so those of an axis of one element matter; and it leaves
    the result as the memory was found where it knows nothing, and for a single step.
    """
    rows, steps = x_MK.shape
    columns = w_KN.shape[1]
    if steps == 1:
        return x_MK.int() * w_KN.int()
    x = x_MK.contiguous().as_strided((rows, steps), (steps, 1))
    if w_KN.T.is_contiguous():
        return torch._int_mm(x, w_KN.as_strided((steps, columns), (1, steps)))
    return torch._int_mm(x, w_KN.contiguous().as_strided((steps, columns), (columns, 1)))


def takes(x: Tensor, w: Tensor, largest_code: int) -> bool:
    """Whether it multiplies these, codes of `w` of at most `largest_code`: on the CPU, no axis empty."""
    return x.is_cpu and x.numel() > 0 and w.numel() > 0 and serves(largest_code)


@cache
def serves(largest_code: int) -> bool:
    """Whether it is exact for a w of at most `largest_code`, whatever x, and no slower than float32's product."""
    return is_exact(largest_code) and _is_fast()


@cache
def is_exact(largest_code: int) -> bool:
    """Found on the codes of which two products, whichever side is made unsigned, are the largest."""
    try:
        return all(_is_exact(largest_code, rows) for rows in _ROWS)
    except RuntimeError:  # torch does not have it for this processor
        return False


def _is_exact(largest_code: int, rows: int) -> bool:
    signs = torch.arange(_COLUMNS) % 3 > 0
    w_NK = torch.where(signs, largest_code - 1, -largest_code).to(torch.int8)[:, None].repeat(1, _STEPS)
    x = torch.where(torch.arange(rows) % 2 > 0, -127, 127).to(torch.int8)[:, None].repeat(1, _STEPS)
    expected = (x.double() @ w_NK.double().T).int()
    return all(torch.equal(product(x, w), expected) for w in (w_NK.T, w_NK.T.contiguous()))


def _is_fast() -> bool:
    x, w_NK = torch.ones(_ROWS[-1], _STEPS, dtype=torch.int8), torch.ones(_COLUMNS, _STEPS, dtype=torch.int8)
    x_float, w_float = x.float(), w_NK.float()
    return _seconds(lambda: product(x, w_NK.T)) <= _seconds(lambda: x_float @ w_float.T)


def _seconds(function: Callable[[], Tensor]) -> float:
    """The shortest of a few calls, after one that prepares."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times[1:])
