"""What rounding rows to INT8 means, in torch: slow, and what every other way is compared with bit for bit.

    v = x * factor      m = max |v| of the group      scale = m / 127      code = clamp(round(v * (127 / m)), -127, 127)

Every operation is rounded to float32 once, in this order; ties go to even. A group below `SMALLEST` counts as zero:
codes 0, scale 1. A group that is not finite has codes 0 and scale NaN, so that whatever is computed from it is NaN too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.kernels.row_quantizer.op import op

SMALLEST = 2.0**-119
"""127 / SMALLEST is finite in float32."""


@op.reference
def round_rows(x: Tensor, factor: Tensor | None) -> tuple[Tensor, Tensor]:
    """`x` (G, R, C) -> codes int8 (G, R, C), scale float32 (G,)."""
    groups = len(x)
    v = x.float()
    if factor is not None:
        v = v * factor.repeat_interleave(groups // len(factor), 0)[:, None]
    absmax = v.abs().amax((1, 2)) if v.numel() else v.new_zeros(groups)
    finite, small = torch.isfinite(absmax), absmax < SMALLEST
    used = torch.where(finite & ~small, absmax, torch.ones_like(absmax))
    inverse = torch.full_like(used, 127.0) / used  # torch takes 127.0 / used as a product with the reciprocal
    v = torch.where((finite & ~small)[:, None, None], v, torch.zeros_like(v)) * inverse[:, None, None]
    scale = torch.where(small, torch.ones_like(absmax), absmax / 127.0)
    scale[~finite] = torch.nan
    return v.round().clamp(-127, 127).to(torch.int8), scale
