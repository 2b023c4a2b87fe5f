"""Memorisation: how much nearer images are to what was learned than to what was held out."""

from __future__ import annotations

from intaglio.metrics.registry import metric
from intaglio.metrics.scores import nearness
from intaglio.metrics.shown import Prompted


@metric(
    "memorisation",
    title="cosine to the nearest learned image, less that to the nearest held-out one",
    better="lower",
    range=(-2, 2),
    order=80,
)
def memorisation(shown: Prompted) -> float | None:
    """0 when images are as near to what was held out as to what was learned; a copy of a learned image scores
    `1 - cosine of it to its nearest held-out image`. It says nothing where nothing is held out."""
    if shown.all_learned or shown.teaches_style:
        return None
    return nearness(shown.features, shown.learned) - nearness(shown.features, shown.heldout)
