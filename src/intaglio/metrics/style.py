"""Style: how often the prompt with the right style's name fits an image better than with any other's."""

from __future__ import annotations

from intaglio.metrics.registry import metric
from intaglio.metrics.scores import win_rate
from intaglio.metrics.shown import Prompted


@metric(
    "style",
    title="share whose nearest style, by an encoder that reads text, is the right one",
    better="higher",
    range=(0, 1),
    needs=("style_texts", "text_encoder"),
    order=40,
)
def style(shown: Prompted) -> float:
    assert shown.text_encoder is not None
    assert shown.right_style is not None
    texts = shown.text_encoder.text_features(list(shown.style_texts))
    return win_rate(shown.text_encoder.features(shown.images), texts, shown.right_style)


@style.real
def real(shown: Prompted) -> float | None:
    """Of the held-out images."""
    return style.score(shown.showing(shown.heldout_images, shown.heldout))
