"""INT8 x INT8 -> INT32 of two plain matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.kernels.cost import matmul
from intaglio.kernels.registry import Op
from intaglio.quantizers.integer_step import MAX_REDUCTION


def int8_matmul(x_MK: Tensor, w_NK: Tensor) -> Tensor:
    """`x w^T`: int8 (M, K), int8 (N, K) -> int32 (M, N), exact. Any strides; K at most `MAX_REDUCTION`.

    Raises:
        ValueError: another dtype, shape or device, or a K that int32 may not hold.
    """
    check(x_MK, w_NK)
    return op(x_MK, w_NK)


def check(x_MK: Tensor, w_NK: Tensor) -> None:
    """
    Raises:
        ValueError: another dtype, shape or device, or K > MAX_REDUCTION.
    """
    for name, tensor in (("x", x_MK), ("w", w_NK)):
        if tensor.dtype != torch.int8 or tensor.ndim != 2:
            raise ValueError(
                f"int8_matmul: {name} is {tensor.dtype} of shape {tuple(tensor.shape)}; expected torch.int8 of two "
                "dimensions: quantize it, and flatten leading dimensions"
            )
    if x_MK.shape[1] != w_NK.shape[1]:
        raise ValueError(
            f"int8_matmul: x {tuple(x_MK.shape)} and w {tuple(w_NK.shape)} do not meet: {x_MK.shape[1]} columns "
            f"against {w_NK.shape[1]}"
        )
    if x_MK.device != w_NK.device:
        raise ValueError(f"int8_matmul: x is on {x_MK.device}, w on {w_NK.device}; move one of them")
    if x_MK.shape[1] > MAX_REDUCTION:
        raise ValueError(
            f"int8_matmul: a sum of {x_MK.shape[1]:,} products may not fit int32; at most {MAX_REDUCTION:,}. "
            "Cut the reduction and add the parts in int64"
        )


def _fake(x: Tensor, w: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], w.shape[0], dtype=torch.int32)


op = Op("int8_matmul", _fake, cost=lambda args, out: [matmul(args["x"], args["w"].t(), out)])
