"""Per-sample sums over rows, without a temporary of the size of the operands."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from intaglio.errors import UserError
from intaglio.kernels import binding
from intaglio.kernels.operators import Operator


def column_sums(a_BRC: Tensor, b_BRC: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
    """`sum over rows of a * b`, float32 (B, C), for each sample.

    Args:
        a_BRC: float (samples, rows, columns); bfloat16 is read as it is beside codes or nothing.
        b_BRC: float of the same shape; or int8 codes with `scale`; None for 1.
        scale: float32 (G,), one scale for each of G equal runs of rows, all samples in order.

    The fast path adds 64 rows at a time in float32 and those in float64.
    """
    shapes = (tuple(a_BRC.shape), None if b_BRC is None else tuple(b_BRC.shape))
    rows = a_BRC.shape[0] * a_BRC.shape[1] if a_BRC.ndim == 3 else 0
    integers = b_BRC is not None and b_BRC.dtype == torch.int8
    if (
        a_BRC.ndim != 3
        or (b_BRC is not None and shapes[0] != shapes[1])
        or integers != (scale is not None)
        or (scale is not None and (rows % len(scale) if len(scale) else rows))
    ):
        raise UserError(
            f"column_sums: a {shapes[0]}, b {shapes[1]}, {'no' if scale is None else len(scale)} scales; expected two "
            "of (samples, rows, columns), and with an int8 b one scale for every run of rows"
        )
    b = b_BRC if b_BRC is None or integers else b_BRC.float()
    narrow = a_BRC.dtype == torch.bfloat16 and (b is None or integers)
    return _column_sums(a_BRC if narrow else a_BRC.float(), b, scale)


def _column_sums_compute(a: Tensor, b: Tensor | None, scale: Tensor | None) -> Tensor:
    kernels = binding.compiled(a, b, scale)
    samples, rows, columns = a.shape
    if kernels is None:
        a = a.float()
        if scale is not None and b is not None and b.numel():
            b = (b.reshape(len(scale), -1) * scale[:, None]).reshape(a.shape)
        return (a if b is None else a * b).sum(1)
    a = a if _evenly_spaced(a) else a.contiguous()
    b = None if b is None else b.contiguous()
    scale = None if scale is None else scale.contiguous()
    sums = a.new_empty(samples, columns, dtype=torch.float32)
    call = binding.ColumnSums(
        a=binding.address(a), a_type=binding.TYPES[a.dtype], a_stride=a.stride(1 if rows > 1 else 0),
        b=binding.address(b), scale=binding.address(scale), b_type=1 if b is None else binding.TYPES[b.dtype],
        rows_per_scale=1 if scale is None else max(1, samples * rows // max(1, len(scale))),
        samples=samples, rows=rows, columns=columns, sums=binding.address(sums), threads=torch.get_num_threads(),
    )  # fmt: skip
    kernels.intaglio_column_sums(ctypes.byref(call))
    return sums


def _column_sums_fake(a: Tensor, b: Tensor | None, scale: Tensor | None) -> Tensor:
    return a.new_empty(a.shape[0], a.shape[2], dtype=torch.float32)


_column_sums = Operator("intaglio::column_sums", _column_sums_compute, _column_sums_fake)


def _evenly_spaced(a: Tensor) -> bool:
    """Whether columns are neighbours, and all rows, of all samples in order, equally far apart."""
    samples, rows, columns = a.shape
    if columns > 1 and a.stride(2) != 1:
        return False
    return rows == 1 or samples == 1 or a.stride(0) == rows * a.stride(1)
