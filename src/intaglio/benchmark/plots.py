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


def trade_off(rows: Sequence[Row], path: Path, against: str = "prompt") -> None:
    """Subject against prompt score, or against drift where prompts are too easy: a point for every checkpoint of every
    method, the mean over tasks and seeds."""
    figure, axes = plt.subplots(figsize=(6.4, 4.8), layout="constrained")
    for number, (label, own) in enumerate(_by_label(rows).items()):
        steps = sorted({p["step"] for row in own for p in row["checkpoints"]})
        points = [
            [p["scores"] for row in own for p in row["checkpoints"] if p["step"] == step and against in p["scores"]]
            for step in steps
        ]
        kept = [(step, found) for step, found in zip(steps, points, strict=True) if found]
        if not kept:
            continue
        x = [fmean(s[against] for s in found) for _, found in kept]
        y = [fmean(s["subject"] for s in found) for _, found in kept]
        axes.plot(x, y, marker="osD^vP*X"[number % 8], markersize=5, linewidth=1, label=label)
        axes.annotate(str(kept[-1][0]), (x[-1], y[-1]), fontsize=7, xytext=(4, 4), textcoords="offset points")
    real = [row["checkpoints"][-1]["scores"]["subject_real"] for row in rows if _has(row, "subject_real")]
    if real:
        axes.axhline(fmean(real), color="gray", linestyle=":", linewidth=1, label="real pictures")
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
