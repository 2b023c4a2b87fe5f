"""Sample prediction: the clean latent itself."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.diffusion.discrete import Discrete


class Sample(Discrete):
    name = "sample"

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return x0

    def error_scale(self, snr: Tensor) -> Tensor:
        return torch.ones_like(snr)
