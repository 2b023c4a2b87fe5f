"""The forward process of DDPM (Ho et al. 2020) on T integer steps: what epsilon, v and sample prediction share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from intaglio.diffusion.time import Steps, column


@dataclass(frozen=True)
class Discrete(ABC):
    """Step i of T is the time t = i / T."""

    name: ClassVar[str]

    alphas_cumprod: Tensor
    """float32 (T,) on the CPU: alpha_bar of each step."""
    snr_gamma: float | None = None
    """Min-SNR weights (Hang et al. 2023): the SNR is capped at gamma. None: all weights are 1."""

    @property
    def num_steps(self) -> int:
        return len(self.alphas_cumprod)

    def draw(self, generator: torch.Generator) -> float:
        return int(torch.randint(self.num_steps, (), generator=generator)) / self.num_steps

    def times(self, u: Tensor) -> Tensor:
        return (u.double() * self.num_steps).floor() / self.num_steps

    def model_time(self, t: Tensor) -> Tensor:
        """int64 (B,)."""
        return Steps(self.num_steps).to_model(t)

    def corrupt(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        signal, spread = self.coefficients(t, x0)
        return signal * x0 + spread * noise

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar) and sqrt(1 - alpha_bar), (B, 1, ...), in the dtype of `like` as diffusers' schedulers do."""
        alpha_bar = self.alphas_cumprod.to(like.dtype)[self.model_time(t)]
        return column(alpha_bar**0.5, like), column((1 - alpha_bar) ** 0.5, like)

    def signal_to_noise(self, t: Tensor) -> Tensor:
        """SNR = alpha_bar / (1 - alpha_bar), float32 (B,)."""
        alpha_bar = self.alphas_cumprod[self.model_time(t)].float()
        return alpha_bar / (1 - alpha_bar)

    def weight(self, t: Tensor) -> Tensor:
        """min(SNR, gamma) over what the error of this prediction is multiplied with; ones without a gamma."""
        if self.snr_gamma is None:
            return torch.ones(t.shape)
        snr = self.signal_to_noise(t)
        return snr.clamp(max=self.snr_gamma) / self.error_scale(snr)

    @abstractmethod
    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the denoiser should answer, of the shape of `x0`."""

    @abstractmethod
    def error_scale(self, snr: Tensor) -> Tensor:
        """The squared error of this prediction, over that of x_0."""


def discrete_schedule(scheduler: Any) -> Tensor:
    """alpha_bar of every step, float32 (T,), of training: DDPM's, whatever sampler the pipeline has."""
    from diffusers import DDPMScheduler

    ddpm: Any = DDPMScheduler.from_config(scheduler.config)
    return ddpm.alphas_cumprod
