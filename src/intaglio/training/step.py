"""One training step's loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from intaglio.diffusion.objective import Objective
from intaglio.families.base import Family
from intaglio.layers.timesteps import TimestepContext
from intaglio.training.batches import Batch


@dataclass(frozen=True)
class Loss:
    """Weighted squared error of the prediction of one model under one objective."""

    family: Family
    objective: Objective
    times: TimestepContext
    """Of the adapter: its layers are told the noise level itself, not what the denoiser is called with."""
    guidance: float | None = None

    def __call__(self, denoiser: Any, batch: Batch, *, samples: int, weighted: bool = True) -> Tensor:
        """`sum over samples of weight * mean square / samples`, so that class pictures (weight `prior_loss_weight`)
        add their mean to the mean of the user's photos, as DreamBooth does.

        Args:
            samples: how many of the user's photos the batch holds.
            weighted: by the objective.
        """
        objective, device = self.objective, batch.x0.device
        noisy = objective.corrupt(batch.x0, batch.noise, batch.t)
        wanted = objective.target(batch.x0, batch.noise, batch.t)
        time = objective.model_time(batch.t).to(device)
        with self.times.at(batch.t):
            predicted = self.family.predict(denoiser, noisy, time, batch.conditioning, self.guidance)
        error = (predicted.float() - wanted.float()).square().flatten(1).mean(1)
        weights = batch.weights * objective.weight(batch.t).to(device) if weighted else batch.weights
        return (error * weights).sum() / samples

    @torch.no_grad()
    def mean(self, denoiser: nn.Module, batches: list[Batch]) -> float:
        """The unweighted loss over a fixed set."""
        total, count = 0.0, 0
        for batch in batches:
            total += self(denoiser, batch, samples=1, weighted=False).item()
            count += len(batch.x0)
        return total / count
