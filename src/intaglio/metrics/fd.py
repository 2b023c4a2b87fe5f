"""Distance of distributions: Fréchet distance of all images of a task to as many held-out ones; few inflate it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from intaglio.metrics.frechet import frechet_distance
from intaglio.metrics.registry import metric
from intaglio.metrics.scores import spread
from intaglio.metrics.shown import Shown


@metric(
    "fd",
    title="Fréchet distance to as many held-out images",
    better="lower",
    range=(0, math.inf),
    over="task",
    order=50,
    compared=True,
    real_name="fd_floor",
)
def fd(shown: Shown) -> float | None:
    parts = _parts(shown)
    return None if parts is None else frechet_distance(parts[0], parts[1])


@fd.real
def floor(shown: Shown) -> float | None:
    """Of the learned images, where they are others than the held-out ones and show the same."""
    parts = _parts(shown)
    if parts is None or any(prompt.teaches_style for prompt in shown.prompts) or torch.equal(parts[2], parts[1]):
        return None
    return frechet_distance(parts[2], parts[1])


def _parts(shown: Shown) -> tuple[Tensor, ...] | None:
    """Features of what was drawn, held out and learned, as many of each; None where that is fewer than two."""
    kinds = [torch.cat([getattr(p, name) for p in shown.prompts]) for name in ("features", "heldout", "learned")]
    count = min(map(len, kinds))
    return tuple(part[spread(range(len(part)), count)] for part in kinds) if count >= 2 else None
