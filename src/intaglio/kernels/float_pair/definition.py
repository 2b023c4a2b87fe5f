"""What the three products are, in torch: also what runs where there are no compiled ones. `a` is rounded first."""

from __future__ import annotations

from torch import Tensor


def down(x_MC: Tensor, a_RC: Tensor, scale: float) -> Tensor:
    return x_MC @ (a_RC * scale).to(x_MC.dtype).T


def up(x_MC: Tensor, h_MR: Tensor, a_RC: Tensor, scale: float) -> Tensor:
    return x_MC.addmm(h_MR, (a_RC * scale).to(x_MC.dtype))


def sums(x_MC: Tensor, h_MR: Tensor, scale: float) -> Tensor:
    return scale * (h_MR.T @ x_MC.to(h_MR.dtype)).float()
