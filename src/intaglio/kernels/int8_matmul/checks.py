"""What the product takes."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.errors import UserError

MAX_REDUCTION = (2**31 - 1) // 128**2
"""The longest sum that int32 holds, whatever the codes: 131,071 products of at most 128 * 128."""


def check(x: Tensor, w: Tensor, reduction: int) -> None:
    """`x` int8 (M, R), `w` int8 of two dimensions, `reduction` the one of them that is summed over.

    Raises:
        UserError: another dtype, shape or device, or R > MAX_REDUCTION.
    """
    for name, tensor in (("x", x), ("w", w)):
        if tensor.dtype != torch.int8 or tensor.ndim != 2:
            raise UserError(
                f"int8_matmul: {name} is {tensor.dtype} of shape {tuple(tensor.shape)}; expected torch.int8 of two "
                "dimensions: quantize it, and flatten leading dimensions"
            )
    if x.shape[1] != w.shape[reduction]:
        raise UserError(
            f"int8_matmul: x {tuple(x.shape)} and w {tuple(w.shape)} do not meet: {x.shape[1]} columns against "
            f"{w.shape[reduction]}. int8_matmul sums over the columns of w, int8_matmul_transposed over its rows"
        )
    if x.device != w.device:
        raise UserError(f"int8_matmul: x is on {x.device}, w on {w.device}; move one of them")
    if x.shape[1] > MAX_REDUCTION:
        raise UserError(
            f"int8_matmul: a sum of {x.shape[1]:,} products may not fit int32; at most {MAX_REDUCTION:,}. "
            "Cut the reduction and add the parts in int64"
        )
