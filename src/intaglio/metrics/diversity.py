"""Diversity: how unlike each other the images of one prompt are."""

from __future__ import annotations

from intaglio.metrics.registry import metric
from intaglio.metrics.scores import mean_other_cosine
from intaglio.metrics.shown import Prompted


@metric(
    "diversity",
    title="1 - mean cosine among the images of one prompt",
    better="higher",
    range=(0, 2),
    order=70,
)
def diversity(shown: Prompted) -> float:
    return 1 - mean_other_cosine(shown.features)
