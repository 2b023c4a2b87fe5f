"""Rounding to nearest where the compiled kernels are not there: the definition's numbers in fewer passes."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.kernels.row_quantizer.op import op
from intaglio.kernels.row_quantizer.reference import SMALLEST, round_rows


def round_to_nearest(x_GRC: Tensor, factor_SC: Tensor | None) -> tuple[Tensor, Tensor]:
    """`round_rows` of float32 or bfloat16.

    Nothing needs clamping: |v| (127 / m), with both operations rounded, is less than half a step above 127.
    """
    if x_GRC.numel() == 0:
        return round_rows(x_GRC, factor_SC)
    v = x_GRC.float()
    if factor_SC is not None:
        v = v.reshape(len(factor_SC), -1, x_GRC.shape[2]) * factor_SC[:, None]
    v = v.reshape(len(x_GRC), -1)
    absmax = torch.maximum(v.amax(1), -v.amin(1))  # without a copy of |v|
    if not ((absmax >= SMALLEST) & (absmax < torch.inf)).all():  # a group of zeros, or one that is not finite
        return round_rows(x_GRC, factor_SC)
    inverse = (torch.full_like(absmax, 127.0) / absmax)[:, None]  # as the definition divides
    is_own = factor_SC is not None or x_GRC.dtype != torch.float32
    v = v.mul_(inverse) if is_own else v * inverse
    return v.round_().to(torch.int8).view(x_GRC.shape), absmax / 127.0


op.add(round_to_nearest, "torch")
