"""Prompt fidelity: do the images show what the prompt says, by an encoder that reads it or else by pixel checks?"""

from __future__ import annotations

from statistics import fmean

from intaglio.metrics.registry import metric
from intaglio.metrics.scores import mean_pairwise_cosine
from intaglio.metrics.shown import Prompted

PIXELS = "pixels"
"""What the score is said to be by where no encoder reads the prompts."""


@metric(
    "prompt",
    title="prompt fidelity: mean cosine of image and prompt, or mean of the pixel checks",
    better="higher",
    range=(-1, 1),
    order=30,
)
def prompt(shown: Prompted) -> float | None:
    if shown.text_encoder is not None:
        text = shown.text_encoder.text_features([shown.text])
        return mean_pairwise_cosine(shown.text_encoder.features(shown.images), text)
    return fmean(check(shown.images) for check in shown.checks.values()) if shown.checks else None


@prompt.real
def real(shown: Prompted) -> float | None:
    """Of the held-out images."""
    return prompt.score(shown.showing(shown.heldout_images, shown.heldout))
