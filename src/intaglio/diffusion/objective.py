"""Forward process, target and weight of the loss, for a scheduler of diffusers.

Epsilon (Ho et al. 2020), v (Salimans and Ho 2022) and sample prediction; min-SNR weights (Hang et al. 2023).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from intaglio.errors import UserError

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def check_scheduler(scheduler: Any) -> None:
    """Refuse what is not trained yet: flow matching, and schedulers without a forward process on integer timesteps."""
    kind = getattr(scheduler.config, "prediction_type", None)
    if kind not in PREDICTION_TYPES or not hasattr(scheduler, "alphas_cumprod"):
        raise UserError(
            f"{type(scheduler).__name__} (prediction_type {kind!r}) cannot be trained yet; expected a scheduler with "
            f"{', '.join(PREDICTION_TYPES)} prediction, as Stable Diffusion 1.x, 2.x and XL have"
        )


def training_scheduler(scheduler: Any) -> Any:
    """A DDPM scheduler with the noise schedule of `scheduler`: what training uses, whatever sampling uses."""
    from diffusers import DDPMScheduler

    check_scheduler(scheduler)
    return DDPMScheduler.from_config(scheduler.config)


def add_noise(scheduler: Any, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """`x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise`; latents (B, C, h, w), timesteps int64 (B,)."""
    return scheduler.add_noise(latents, noise, timesteps)


def target(scheduler: Any, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the denoiser should answer, of the shape of `latents`."""
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    return latents if kind == "sample" else scheduler.get_velocity(latents, noise, timesteps)


def signal_to_noise(scheduler: Any, timesteps: Tensor) -> Tensor:
    """SNR = alpha_bar / (1 - alpha_bar), float32 (B,)."""
    alpha_bar = scheduler.alphas_cumprod.to(timesteps.device)[timesteps].float()
    return alpha_bar / (1 - alpha_bar)


def loss_weights(scheduler: Any, timesteps: Tensor, snr_gamma: float | None) -> Tensor:
    """Min-SNR weight of each sample, float32 (B,); ones when `snr_gamma` is None.

    With x_0 prediction the weight is min(SNR, gamma); the other targets divide by what their error is multiplied with:
    SNR for epsilon, SNR + 1 for v.
    """
    if snr_gamma is None:
        return torch.ones(timesteps.shape, device=timesteps.device)
    snr = signal_to_noise(scheduler, timesteps)
    weight = snr.clamp(max=snr_gamma)
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return weight / snr.clamp(min=1e-8)
    return weight if kind == "sample" else weight / (snr + 1)
