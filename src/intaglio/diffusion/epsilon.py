"""Epsilon prediction (Ho et al. 2020): the noise."""

from __future__ import annotations

from torch import Tensor

from intaglio.diffusion.discrete import Discrete


class Epsilon(Discrete):
    name = "epsilon"

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise

    def error_scale(self, snr: Tensor) -> Tensor:
        return snr.clamp(min=1e-8)
