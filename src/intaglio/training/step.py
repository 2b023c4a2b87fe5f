"""One training step's loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from intaglio.diffusion.objective import add_noise, loss_weights, target
from intaglio.training.batches import Batch
from intaglio.training.conditioning import call_denoiser


def batch_loss(denoiser: nn.Module, scheduler: Any, batch: Batch, *, snr_gamma: float | None, samples: int) -> Tensor:
    """Weighted squared error of the prediction.

    `sum over samples of weight * mean square / samples`, so that class pictures (weight `prior_loss_weight`) add their
    mean to the mean of the user's photos, as DreamBooth does.

    Args:
        samples: how many of the user's photos the batch holds.
    """
    noisy = add_noise(scheduler, batch.latents, batch.noise, batch.timesteps)
    wanted = target(scheduler, batch.latents, batch.noise, batch.timesteps)
    predicted = call_denoiser(denoiser, noisy, batch.timesteps, batch.text, batch.time_ids)
    error = (predicted.float() - wanted.float()).square().flatten(1).mean(1)
    weights = batch.weights * loss_weights(scheduler, batch.timesteps, snr_gamma)
    return (error * weights).sum() / samples


@torch.no_grad()
def mean_loss(denoiser: nn.Module, scheduler: Any, batches: list[Batch]) -> float:
    """The unweighted loss over a fixed set."""
    total, count = 0.0, 0
    for batch in batches:
        size = len(batch.latents)
        total += batch_loss(denoiser, scheduler, batch, snr_gamma=None, samples=1).item()
        count += size
    return total / count
