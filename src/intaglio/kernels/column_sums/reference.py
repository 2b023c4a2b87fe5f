"""What the sums are, in torch."""

from __future__ import annotations

from torch import Tensor

from intaglio.kernels.column_sums.op import op


@op.reference
def sums(a: Tensor, b: Tensor | None, scale: Tensor | None) -> Tensor:
    a = a.float()
    if scale is not None and b is not None and b.numel():
        b = (b.reshape(len(scale), -1) * scale[:, None]).reshape(a.shape)
    return (a if b is None else a * b).sum(1)
