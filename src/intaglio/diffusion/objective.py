"""What is trained, as equations over t in [0, 1]: epsilon, v, sample and flow are a file each.

x_t = signal(t) x_0 + noise(t) e;   loss = weight(t) | prediction - target(x_0, e, t) |^2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

WeightingScheme = Literal["none", "sigma_sqrt", "logit_normal", "mode", "cosmap"]


class Objective(Protocol):
    """Times are float64 (B,) on the CPU; latents and noise (B, ...) of any float dtype on any device."""

    name: ClassVar[str]

    def draw(self, generator: torch.Generator) -> float:
        """The time of one sample, from the generator of its step and place."""
        ...

    def times(self, u: Tensor) -> Tensor:
        """Numbers u in [0, 1), evenly spread -> times of the distribution that `draw` draws from: its quantiles."""
        ...

    def corrupt(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t, of the shape and dtype of `x0`."""
        ...

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the denoiser should answer, of the shape of `x0`."""
        ...

    def weight(self, t: Tensor) -> Tensor:
        """float32 (B,), on the CPU."""
        ...

    def model_time(self, t: Tensor) -> Tensor:
        """What the denoiser is called with, (B,) on the CPU."""
        ...


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions:
    """What a run may say about its objective, under the names of diffusers' scripts; None is the family's default."""

    snr_gamma: float | None = None
    """Min-SNR weights; DDPM objectives alone."""
    weighting_scheme: WeightingScheme | None = None
    logit_mean: float | None = None
    logit_std: float | None = None
    mode_scale: float | None = None
    timestep_shift: str | float | None = None
    """"none", "static" or "dynamic" (both from the scheduler's configuration), or the factor itself."""
