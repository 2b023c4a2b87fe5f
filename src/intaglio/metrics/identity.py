"""Identity: how often the nearest image of a gallery is of the right subject."""

from __future__ import annotations

from intaglio.metrics.registry import metric
from intaglio.metrics.scores import win_rate
from intaglio.metrics.shown import Prompted


@metric(
    "identity",
    title="share whose nearest image of the gallery is the right one",
    better="higher",
    range=(0, 1),
    needs=("gallery",),
    order=20,
    compared=True,
    second=True,
    ceiling=True,
)
def identity(shown: Prompted) -> float:
    assert shown.gallery is not None
    assert shown.right is not None
    return win_rate(shown.features, shown.gallery, shown.right)


@identity.real
def real(shown: Prompted) -> float | None:
    """Of the held-out images that are not in the gallery: the first one is."""
    others = shown.heldout[1:]
    return identity.score(shown.showing((), others)) if len(others) else None
