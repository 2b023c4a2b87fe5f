"""Per-sample sums over rows, without a temporary of the size of the operands."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.kernels.cost import Vector
from intaglio.kernels.registry import Op


def column_sums(a_BRC: Tensor, b_BRC: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
    """`sum over rows of a * b`, float32 (B, C), for each sample.

    Args:
        a_BRC: float (samples, rows, columns); bfloat16 is read as it is beside codes or nothing.
        b_BRC: float of the same shape; or int8 codes with `scale`; None for 1.
        scale: float32 (G,), one scale for each of G equal runs of rows, all samples in order.

    The fast path adds 64 rows at a time in float32 and those in float64.

    Raises:
        ValueError: shapes or scales that do not fit.
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
        raise ValueError(
            f"column_sums: a {shapes[0]}, b {shapes[1]}, {'no' if scale is None else len(scale)} scales; expected two "
            "of (samples, rows, columns), and with an int8 b one scale for every run of rows"
        )
    b = b_BRC if b_BRC is None or integers else b_BRC.float()
    narrow = a_BRC.dtype == torch.bfloat16 and (b is None or integers)
    return op(a_BRC if narrow else a_BRC.float(), b, scale)


def _fake(a: Tensor, b: Tensor | None, scale: Tensor | None) -> Tensor:
    return a.new_empty(a.shape[0], a.shape[2], dtype=torch.float32)


op = Op("column_sums", _fake, cost=lambda args, out: [Vector("scale_gradient", args["a"].numel())])
