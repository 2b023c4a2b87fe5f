"""v prediction (Salimans and Ho 2022): `v = sqrt(alpha_bar) e - sqrt(1 - alpha_bar) x_0`."""

from __future__ import annotations

from torch import Tensor

from intaglio.diffusion.discrete import Discrete


class V(Discrete):
    name = "v_prediction"

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        signal, spread = self.coefficients(t, x0)
        return signal * noise - spread * x0

    def error_scale(self, snr: Tensor) -> Tensor:
        return snr + 1
