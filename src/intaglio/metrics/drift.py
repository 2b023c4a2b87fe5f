"""Drift: how far the adapter moved images of prompts that it was not trained for, from equal noise."""

from __future__ import annotations

from intaglio.metrics.registry import metric
from intaglio.metrics.scores import mean_matched_cosine
from intaglio.metrics.shown import Shown


@metric(
    "drift",
    title="1 - mean cosine to the base's images of unrelated prompts, from equal noise",
    better="lower",
    range=(0, 2),
    needs=("unrelated", "base_unrelated"),
    over="task",
    order=60,
    compared=True,
)
def drift(shown: Shown) -> float:
    encode = shown.encoder.features
    return 1 - mean_matched_cosine(encode(shown.unrelated), encode(shown.base_unrelated))
