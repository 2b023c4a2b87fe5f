"""Intervals of confidence by the bootstrap over subjects, and over the seeds of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2_000
LEVEL = 0.95

Values = Mapping[str, Sequence[float]]
"""Subject -> a value for each seed."""


@dataclass(frozen=True)
class Interval:
    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(values: Values, *, seed: int = 0) -> Interval:
    """Mean over subjects of the means over seeds, with its 95 % percentile interval.

    Subjects are drawn with replacement, then seeds of each drawn subject with replacement: the two stages of the
    experiment. With one subject or one seed that stage adds no spread, so the interval is too narrow; NaN if empty.
    """
    columns = [np.asarray(v, dtype=np.float64) for v in values.values() if len(v)]
    if not columns:
        return Interval(math.nan, math.nan, math.nan)
    random = np.random.default_rng(seed)
    means = np.empty((len(columns), RESAMPLES))
    for row, column in enumerate(columns):
        means[row] = column[random.integers(len(column), size=(RESAMPLES, len(column)))].mean(axis=1)
    # Every place of a resample takes a subject; its seeds were resampled anew in every column above.
    picked = random.integers(len(columns), size=(len(columns), RESAMPLES))
    resampled = means[picked, np.arange(RESAMPLES)].mean(axis=0)
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(np.mean([c.mean() for c in columns])), float(low), float(high))


def paired_difference(
    a: Mapping[str, Mapping[int, float]], b: Mapping[str, Mapping[int, float]], *, seed: int = 0
) -> Interval:
    """`a - b` over the (subject, seed) pairs that both have: equal seeds see equal noise, so most of it cancels."""
    common = {
        subject: [a[subject][s] - b[subject][s] for s in sorted(a[subject].keys() & b[subject].keys())]
        for subject in a.keys() & b.keys()
    }
    return bootstrap({k: common[k] for k in sorted(common) if common[k]}, seed=seed)
