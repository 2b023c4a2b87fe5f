"""By the compiled kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.kernels import binding
from intaglio.kernels.row_quantizer.op import op
from intaglio.kernels.structures import structure

Rows = structure("Rows")


def _compiled(x: Tensor, factor: Tensor | None) -> tuple[Tensor, Tensor]:
    groups, rows, columns = x.shape
    if columns > 1 and x.stride(2) != 1:
        x = x.contiguous()
    factor = None if factor is None else factor.contiguous()
    codes, scale = x.new_empty(x.shape, dtype=torch.int8), x.new_empty(groups, dtype=torch.float32)
    call = Rows(
        x=x.data_ptr(), x_type=binding.TYPES[x.dtype], x_stride=x.stride(1), x_group_stride=x.stride(0),
        groups=groups, rows=rows, columns=columns, factor=binding.address(factor),
        samples=1 if factor is None else len(factor), codes=codes.data_ptr(), scale=scale.data_ptr(),
        threads=torch.get_num_threads(),
    )  # fmt: skip
    binding.call("intaglio_quantize_rows", call)
    return codes, scale


op.native(_compiled, "avx512", "avx2")
