"""By pixels: share of images in which the clothes have the prompted team colour."""

from __future__ import annotations

from intaglio.metrics.registry import metric
from intaglio.metrics.shown import Prompted


@metric(
    "team_colour",
    title="share in which the clothes have the prompted team colour, by pixels",
    better="higher",
    range=(0, 1),
    needs=("checks",),
    column=False,
    order=26,
)
def team_colour(shown: Prompted) -> float | None:
    assert shown.checks is not None
    check = shown.checks.get("team_colour")
    return None if check is None else check(shown.images)
