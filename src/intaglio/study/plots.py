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

Row = Mapping[str, Any]
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
            for point in row["checkpoints"][-1:] if by_rate else row["checkpoints"]:
                if against in point["scores"]:
                    key = row["learning_rate"] if by_rate else point["step"]
                    points.setdefault(key, []).append(point["scores"])
        if not points:
            continue
        places = sorted(points)
        x = [fmean(s[against] for s in points[place]) for place in places]
        y = [fmean(s["subject"] for s in points[place]) for place in places]
        axes.plot(x, y, marker="osD^vP*X"[number % 8], markersize=5, linewidth=1, label=label)
        several = len(places) > 1
        for i in range(len(places)) if by_rate else (-1,) * several:
            axes.annotate(f"{places[i]:g}", (x[i], y[i]), fontsize=7, xytext=(4, 4), textcoords="offset points")
    for name, title in (("subject_real", "real pictures"), ("subject_ceiling", "these after the autoencoder")):
        real = [row["checkpoints"][-1]["scores"][name] for row in rows if _has(row, name)]
        if real:  # a line there would leave the methods no room
            axes.plot([], [], " ", label=f"{title}: {fmean(real):.3f}")
    titles = {"prompt": f"prompt fidelity ({rows[0]['prompt_encoder']})", "drift": "drift on unrelated prompts"}
    axes.set_xlabel(titles[against])
    axes.set_ylabel(f"subject fidelity ({rows[0]['encoder']})")
    axes.legend(fontsize=8)
    _save(figure, path)


def cost(rows: Sequence[Row], name: str, path: Path) -> None:
    """Subject score of the last checkpoint against one cost of `COSTS`, on a logarithmic axis."""
    title, unit = COSTS[name]
    figure, axes = plt.subplots(figsize=(5.6, 4.2), layout="constrained")
    for label, own in _by_label(rows).items():
        known = [row for row in own if row.get(name)]
        if known:
            x, y = fmean(r[name] / unit for r in known), fmean(r["checkpoints"][-1]["scores"]["subject"] for r in known)
            axes.plot([x], [y], "o")
            axes.annotate(label, (x, y), fontsize=8, xytext=(5, 3), textcoords="offset points")
    axes.set_xscale("log")
    axes.set_xlabel(title)
    axes.set_ylabel(f"subject fidelity ({rows[0]['encoder']})")
    axes.margins(0.2)
    _save(figure, path)


def _by_label(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["label"], []).append(row)
    return found


def _has(row: Row, score: str) -> bool:
    return score in row["checkpoints"][-1]["scores"]


def _save(figure: Any, path: Path) -> None:
    write_atomic(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))
    plt.close(figure)
