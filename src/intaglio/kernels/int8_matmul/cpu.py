"""By torch's product of bytes where that serves, and by the compiled product with a frozen weight."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.kernels.int8_matmul import int_mm
from intaglio.kernels.int8_matmul.op import op
from intaglio.kernels.product_call import Window, multiply, weight_of


def _by_int_mm(x: Tensor, w: Tensor) -> Tensor:
    return int_mm.product(x, w.T)


def _compiled(x: Tensor, w: Tensor) -> Tensor:
    columns, transposed = len(w), False
    if w.shape[1] > 1 and w.stride(1) != 1:
        # The transpose of a dense matrix is dense: sum over the other side of it.
        w, transposed = (w.T, True) if w.stride(0) == 1 else (w.contiguous(), False)
    x = x if x.shape[1] < 2 or x.stride(1) == 1 else x.contiguous()
    out = x.new_empty(x.shape[0], columns, dtype=torch.int32)
    multiply(
        weight_of(w, (w.shape[0], 1, w.shape[1])),
        Window(1, 1, len(x), 1, len(x), 1, 1, 1, 1, 0, 0, 1, 1),
        x, x.stride(0), transposed, out,
    )  # fmt: skip
    return out


op.add(
    _by_int_mm,
    "torch_int8",
    takes=lambda x, w: int_mm.takes(x, w, 128),
    condition="where torch._int_mm is exact and fast",
)
op.native(_compiled, "avx512bf16", "avx512", "avx512vl", "avxvnni", "avx2")
