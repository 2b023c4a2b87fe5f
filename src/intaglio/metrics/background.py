"""By pixels: share of images in which the background is the prompted one."""

from __future__ import annotations

from intaglio.metrics.registry import metric
from intaglio.metrics.shown import Prompted


@metric(
    "background",
    title="share in which the background is the prompted one, by pixels",
    better="higher",
    range=(0, 1),
    needs=("checks",),
    column=False,
    order=25,
)
def background(shown: Prompted) -> float | None:
    assert shown.checks is not None
    check = shown.checks.get("background")
    return None if check is None else check(shown.images)
