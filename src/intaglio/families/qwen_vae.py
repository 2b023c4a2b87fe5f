"""The autoencoder of Qwen-Image, which takes frames and normalizes each channel: Krea 2 has it too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def encode(vae: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) -> mean and log-variance (B, C, h, w), by a video of one frame."""
    parameter = next(vae.parameters())
    with torch.no_grad():
        posterior = vae.encode(pixels[:, :, None].to(parameter.device, parameter.dtype)).latent_dist
    return posterior.mean.squeeze(2), posterior.logvar.squeeze(2)


def normalize(vae: Any, latent: Tensor) -> Tensor:
    """(C, h, w) by the mean and the standard deviation of each channel."""
    mean, deviation = (
        latent.new_tensor(each)[:, None, None] for each in (vae.config.latents_mean, vae.config.latents_std)
    )
    return (latent - mean) / deviation
