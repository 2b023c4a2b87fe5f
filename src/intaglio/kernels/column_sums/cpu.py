"""By the compiled kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.kernels import binding
from intaglio.kernels.column_sums.op import op
from intaglio.kernels.structures import structure

ColumnSums = structure("ColumnSums")


def _compiled(a: Tensor, b: Tensor | None, scale: Tensor | None) -> Tensor:
    samples, rows, columns = a.shape
    a = a if _evenly_spaced(a) else a.contiguous()
    b = None if b is None else b.contiguous()
    scale = None if scale is None else scale.contiguous()
    sums = a.new_empty(samples, columns, dtype=torch.float32)
    call = ColumnSums(
        a=a.data_ptr(), a_type=binding.TYPES[a.dtype], a_stride=a.stride(1 if rows > 1 else 0),
        b=binding.address(b), scale=binding.address(scale), b_type=1 if b is None else binding.TYPES[b.dtype],
        rows_per_scale=1 if scale is None else max(1, samples * rows // max(1, len(scale))),
        samples=samples, rows=rows, columns=columns, sums=sums.data_ptr(), threads=torch.get_num_threads(),
    )  # fmt: skip
    binding.call("intaglio_column_sums", call)
    return sums


def _evenly_spaced(a: Tensor) -> bool:
    """Whether columns are neighbours, and all rows, of all samples in order, equally far apart."""
    samples, rows, columns = a.shape
    if columns > 1 and a.stride(2) != 1:
        return False
    return rows == 1 or samples == 1 or a.stride(0) == rows * a.stride(1)


op.native(_compiled, "avx512", "avx2")
