"""Metrics by name: those of this folder, and those that installed packages bring.

A metric is one file with a function under `@metric`. Tables, plots and `intaglio evaluate` follow from what it
declares. A package brings one by an entry point in the group `intaglio.metrics` that names its module; a script
by importing `metric` and decorating a function.

    @metric("sharpness", title="mean gradient of the levels", better="higher", range=(0, 255), order=90)
    def sharpness(shown: Prompted) -> float: ...
"""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from statistics import fmean
from typing import Any, Literal

from intaglio import metrics as folder
from intaglio.metrics.shown import Prompted, Shown

Better = Literal["higher", "lower"]
Score = Callable[[Any], float | None]
"""Of a `Prompted` or of a `Shown`; None or NaN where it does not apply."""
TOLERANCE = 1e-6
"""By which rounding may take a score out of its range."""


@dataclass(eq=False)
class Metric:
    """One number about what was drawn, and the same of real images.

    Args:
        name: in rows and tables.
        title: what it is, in one line.
        better: which way is better.
        range: smallest and largest value that can be.
        needs: fields of what the function sees that must be there; without them the metric is left out.
        over: "prompt": the function sees a `Prompted`, and the mean over prompts counts; "task": it sees the `Shown`.
        column: whether tables have a column of it; rows have it in any case.
        order: place among the columns of a table, left to right.
        compared: whether tables compare it pair by pair with the reference method.
        second: whether a second encoder measures it too, as NAME_second.
        ceiling: whether real images that went through the model's autoencoder are measured too, as NAME_ceiling.
        real_name: what the score of real images is called.
    """

    name: str
    title: str
    better: Better
    range: tuple[float, float]
    score: Score
    needs: tuple[str, ...] = ()
    over: Literal["prompt", "task"] = "prompt"
    column: bool = True
    order: int = 100
    compared: bool = False
    second: bool = False
    ceiling: bool = False
    real_name: str = ""
    _real: Score | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.real_name = self.real_name or f"{self.name}_real"

    def real(self, score: Score) -> Score:
        """A decorator: the same score of real images, `real_name` in rows."""
        self._real = score
        return score

    @property
    def real_names(self) -> tuple[str, ...]:
        """Names of the scores of real images that stand beside it."""
        return (self.real_name,) * (self._real is not None) + (f"{self.name}_ceiling",) * self.ceiling

    def __call__(self, seen: Any) -> float | None:
        return self.score(seen)

    def of(self, shown: Shown, *, real: bool = False) -> float:
        """The score, or that of real images; NaN where it does not apply.

        Raises:
            ValueError: the function gave a number outside of the declared range.
        """
        score = self._real if real else self.score
        if score is None:
            return math.nan
        seen: Sequence[Any] = shown.prompts if self.over == "prompt" else (shown,)
        found = [score(one) for one in seen if all(_is_there(getattr(one, name)) for name in self.needs)]
        known = [value for value in found if value is not None and not math.isnan(value)]
        value = fmean(known) if known else math.nan
        low, high = self.range
        if not (math.isnan(value) or low - TOLERANCE <= value <= high + TOLERANCE):
            raise ValueError(f"metric {self.name}: {value} is not in its range [{low:g}, {high:g}]")
        return value


METRICS: dict[str, Metric] = {}
"""All metrics by name, in the order of their columns. Filled in by `@metric`; read it by `metrics()`."""


def metric(
    name: str, *, title: str, better: Better, range: tuple[float, float], **rest: Any
) -> Callable[[Score], Metric]:
    """A decorator that makes a function a `Metric` and registers it. The arguments are those of `Metric`.

    Raises:
        ValueError: another function has that name.
    """

    def register(score: Score) -> Metric:
        known = METRICS.get(name)
        if known is not None and known.score.__module__ != score.__module__:
            raise ValueError(f"a metric named {name!r} is registered already, by {known.score.__module__}")
        METRICS[name] = Metric(name, title, better, range, score, **rest)
        return METRICS[name]

    return register


def metrics() -> list[Metric]:
    """All metrics, in the order of their columns."""
    _load()
    return sorted(METRICS.values(), key=lambda one: (one.order, one.name))


def measure(shown: Shown, chosen: Iterable[Metric] | None = None, *, real: bool = True) -> dict[str, float]:
    """Scores by name, of all metrics or of the chosen ones; what does not apply is left out.

    Args:
        real: whether real images are scored too.
    """
    scores: dict[str, float] = {}
    for one in metrics() if chosen is None else chosen:
        scores[one.name] = one.of(shown)
        if real and one._real is not None:
            scores[one.real_name] = one.of(shown, real=True)
    return {name: value for name, value in scores.items() if not math.isnan(value)}


@cache
def _load() -> None:
    for module in pkgutil.iter_modules(folder.__path__):
        import_module(f"{folder.__name__}.{module.name}")
    for entry in entry_points(group="intaglio.metrics"):
        entry.load()


def _is_there(value: Any) -> bool:
    return value is not None and (not hasattr(value, "__len__") or len(value) > 0)


__all__ = ["METRICS", "Metric", "Prompted", "Shown", "measure", "metric", "metrics"]
