"""The product, by the fastest exact path."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.kernels import binding
from intaglio.kernels.int8_matmul import int_mm
from intaglio.kernels.int8_matmul.checks import check
from intaglio.kernels.operators import Operator

EXACT_IN_FLOAT32 = 2**24 // 128**2
"""1,024 products of at most 128 * 128: every partial sum is an integer that float32 holds, in whatever order."""


def int8_matmul(x_MK: Tensor, w_NK: Tensor) -> Tensor:
    """`x w^T`: int8 (M, K), int8 (N, K) -> int32 (M, N), exact. Any strides; K at most `MAX_REDUCTION`.

    Raises:
        UserError: another dtype, shape or device, or a K that int32 may not hold.
    """
    check(x_MK, w_NK, reduction=1)
    return _int8_matmul(x_MK, w_NK, False)


def int8_matmul_transposed(x_MN: Tensor, w_NK: Tensor) -> Tensor:
    """`x w`: int8 (M, N), int8 (N, K) -> int32 (M, K), exact, from the weight that `int8_matmul` takes.

    Raises:
        UserError: as `int8_matmul`, for N.
    """
    check(x_MN, w_NK, reduction=0)
    return _int8_matmul(x_MN, w_NK, True)


def by_torch(x_MR: Tensor, w_RC: Tensor) -> Tensor:
    """`x w` by float32 products that are exact: the definition for those who compare, and what always serves."""
    total = torch.zeros(x_MR.shape[0], w_RC.shape[1], dtype=torch.int32, device=x_MR.device)
    for start in range(0, x_MR.shape[1], EXACT_IN_FLOAT32):
        part = slice(start, start + EXACT_IN_FLOAT32)
        total += (x_MR[:, part].float() @ w_RC[part].float()).int()
    return total


def _compute(x: Tensor, w: Tensor, transposed: bool) -> Tensor:
    if binding.compiled(x, w) is None:
        w_RC = w if transposed else w.T
        return int_mm.product(x, w_RC) if int_mm.takes(x, w_RC, 128) else by_torch(x, w_RC)
    if w.shape[1] > 1 and w.stride(1) != 1:
        # The transpose of a dense matrix is dense: sum over the other side of it.
        w, transposed = (w.T, not transposed) if w.stride(0) == 1 else (w.contiguous(), transposed)
    x = x if x.shape[1] < 2 or x.stride(1) == 1 else x.contiguous()
    columns = w.shape[1] if transposed else w.shape[0]
    out = x.new_empty(x.shape[0], columns, dtype=torch.int32)
    binding.multiply(
        binding.weight_of(w, (w.shape[0], 1, w.shape[1])),
        binding.Window(1, 1, len(x), 1, len(x), 1, 1, 1, 1, 0, 0, 1, 1),
        x, x.stride(0), transposed, out,
    )  # fmt: skip
    return out


def _fake(x: Tensor, w: Tensor, transposed: bool) -> Tensor:
    return x.new_empty(x.shape[0], w.shape[1] if transposed else w.shape[0], dtype=torch.int32)


_int8_matmul = Operator("intaglio::int8_matmul", _compute, _fake)
