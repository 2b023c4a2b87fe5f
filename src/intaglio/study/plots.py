"""Plots of rows: the trade-off of subject and prompt fidelity, and quality against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from intaglio.files import write_atomic
from intaglio.metrics.registry import metrics
from intaglio.study.rows import Row

COSTS = {
    "adapter_bytes": ("adapter, KiB", 1024),
    "peak_memory_bytes": ("peak memory above the libraries, MiB", 2**20),
    "seconds_per_step": ("seconds a step", 1),
}


def trade_off(rows: Sequence[Row], path: Path, against: str = "prompt", by_rate: bool = False) -> None:
    """Subject against prompt score, or against drift where prompts are too easy: a point for every checkpoint of every
    method, the mean over tasks and seeds; or, `by_rate`, for the last checkpoint at every learning rate."""
    figure, axes = plt.subplots(figsize=(6.4, 4.8), layout="constrained")
    for number, (label, own) in enumerate(_by_label(rows).items()):
        points: dict[float, list[Mapping[str, float]]] = {}
        for row in own:
            for point in row.checkpoints[-1:] if by_rate else row.checkpoints:
                if against in point.scores:
                    key = row.learning_rate or 0.0 if by_rate else point.step
                    points.setdefault(key, []).append(point.scores)
        if not points:
            continue
        places = sorted(points)
        x = [fmean(s[against] for s in points[place]) for place in places]
        y = [fmean(s["subject"] for s in points[place]) for place in places]
        axes.plot(x, y, marker="osD^vP*X"[number % 8], markersize=5, linewidth=1, label=label)
        several = len(places) > 1
        for i in range(len(places)) if by_rate else (-1,) * several:
            axes.annotate(f"{places[i]:g}", (x[i], y[i]), fontsize=7, xytext=(4, 4), textcoords="offset points")
    for name, title in (("subject_real", "real images"), ("subject_ceiling", "these after the autoencoder")):
        real = [row.scores[name] for row in rows if name in row.scores]
        if real:  # a line there would leave the methods no room
            axes.plot([], [], " ", label=f"{title}: {fmean(real):.3f}")
    axes.set_xlabel(_title(against, rows[0]))
    axes.set_ylabel(_title("subject", rows[0]))
    axes.legend(fontsize=8)
    _save(figure, path)


def cost(rows: Sequence[Row], name: str, path: Path) -> None:
    """Subject score of the last checkpoint against one cost of `COSTS`, on a logarithmic axis."""
    title, unit = COSTS[name]
    figure, axes = plt.subplots(figsize=(5.6, 4.2), layout="constrained")
    for label, own in _by_label(rows).items():
        known = [row for row in own if getattr(row, name)]
        if known:
            x, y = fmean(getattr(r, name) / unit for r in known), fmean(r.scores["subject"] for r in known)
            axes.plot([x], [y], "o")
            axes.annotate(label, (x, y), fontsize=8, xytext=(5, 3), textcoords="offset points")
    axes.set_xscale("log")
    axes.set_xlabel(title)
    axes.set_ylabel(_title("subject", rows[0]))
    axes.margins(0.2)
    _save(figure, path)


def _by_label(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.label, []).append(row)
    return found


def _title(name: str, row: Row) -> str:
    """What the metric is, by its own words, which way is better, and what measured it."""
    one = next(m for m in metrics() if m.name == name)
    what, _, _ = one.title.partition(":")
    by = row.prompt_encoder if name == "prompt" else row.encoder
    return f"{what} ({by}; {one.better} is better)"


def _save(figure: Any, path: Path) -> None:
    write_atomic(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))
    plt.close(figure)
