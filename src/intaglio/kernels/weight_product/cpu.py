"""By the compiled kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.kernels.product_call import Window, multiply, weight_of
from intaglio.kernels.weight_product.op import op


def _compiled(
    x: Tensor,
    qdata: Tensor,
    zero_point: Tensor | None,
    ratio: Tensor | None,
    levels: Tensor | None,
    shape: list[int],
    group_size: int,
    geometry: list[int],
    back: bool,
    row_scale: Tensor,
    column_scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    size = geometry[8:]
    out = x.new_empty(x.shape[0], *size, shape[2] if back else shape[0], dtype=dtype)
    if not out.numel():
        return out
    x, row_scale, column_scale = x.contiguous(), row_scale.float().contiguous(), column_scale.float().contiguous()
    bias = None if bias is None else bias.float().contiguous()
    multiply(
        weight_of(qdata, (shape[0], shape[1], shape[2]), zero_point, ratio, levels, group_size),
        Window(*x.shape[:3], *size, *geometry[:8]),
        x, x.shape[3], back, out, row_scale, column_scale, bias,
    )  # fmt: skip
    return out


op.native(_compiled, "avx512bf16", "avx512", "avx512vl", "avxvnni", "avx2")
