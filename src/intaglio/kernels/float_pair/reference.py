"""What the three products are, in torch: also what runs where there are no compiled ones. `a` is rounded first."""

from __future__ import annotations

from torch import Tensor

from intaglio.kernels.float_pair import op


@op.down.reference
def down(x: Tensor, a: Tensor, scale: float) -> Tensor:
    return x @ (a * scale).to(x.dtype).T


@op.up.reference
def up(x: Tensor, h: Tensor, a: Tensor, scale: float) -> None:
    x.copy_(x.addmm(h, (a * scale).to(x.dtype)))


@op.sums.reference
def sums(x: Tensor, h: Tensor, scale: float) -> Tensor:
    return scale * (h.T @ x.to(h.dtype)).float()
