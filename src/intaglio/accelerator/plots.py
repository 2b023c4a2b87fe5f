"""The report's pictures as inline SVG. Every picture is a function of computed rows; none computes a cost."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib import colors, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from intaglio.accelerator.chips import Chip, Efficiency
from intaglio.accelerator.hardware import Hardware

PASS_COLOURS = {
    "output": "#3565a8",
    "grad_input": "#d97a2b",
    "grad_weight": "#2f8f6b",
    "quantize": "#9a78bd",
    "optimizer": "#c2504f",
}
INK, SOFT, GRID = "#22303c", "#6b7885", "#e3e7eb"
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Inter", "Helvetica Neue", "Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 10.5,
    "axes.edgecolor": "#b8c0c8",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "text.color": INK,
    "grid.color": GRID,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "intaglio",
}
Interval = Sequence[float]
LABEL = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.6}
P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in our style without changing matplotlib's settings for anyone else."""

    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return inside


def picture(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def svg(figure: Figure, alt: str) -> str:
    """An inline SVG element that scales with the page."""
    stream = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg \1 role="img" aria-label="{alt}">', text, count=1)


@styled
def roofline(points: Sequence[Mapping[str, Any]], hardware: Hardware) -> Figure:
    """Products under the roof of array and DRAM; area of a point: its share of the time."""
    figure, axes = picture(9.4, 5.0)
    intensity = np.array([p["operations_per_byte"] for p in points])
    tops = np.array([p["tops"] for p in points])
    time = np.array([p["time_share"] for p in points])
    passes = np.array([p["pass"] for p in points])
    low, high = min(intensity.min() / 2, 1.0), max(intensity.max() * 2, 1e3)
    bandwidth = hardware.dram.bandwidth_gbytes_per_s * 1e9
    x = np.geomspace(low, high, 400)
    axes.plot(x, np.minimum(hardware.peak_tops, x * bandwidth / 1e12), color=INK, lw=1.4, zorder=1)
    ridge = hardware.peak_tops * 1e12 / bandwidth
    axes.plot([ridge, ridge], [tops.min() / 2, hardware.peak_tops], color=SOFT, lw=0.8, ls=":", zorder=1)
    for name, colour in PASS_COLOURS.items():
        at = passes == name
        if at.any():
            size = 10 + 6000 * time[at]
            axes.scatter(
                intensity[at],
                tops[at],
                s=size,
                color=colour,
                alpha=0.55,
                linewidth=0.6,
                edgecolor="white",
                label=name,
                zorder=2,
            )
    array = hardware.array
    axes.annotate(
        f"{hardware.peak_tops:.2f} TOPS, {array.rows} x {array.cols} PEs", (high, hardware.peak_tops), (-6, 16),
        textcoords="offset points", ha="right",
    )  # fmt: skip
    axes.annotate(
        f"{hardware.dram.bandwidth_gbytes_per_s:g} GB/s, ridge at {ridge:.0f} op/B", (ridge, tops.min()), (6, 2),
        textcoords="offset points", color=SOFT,
    )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="operations a DRAM byte", ylabel="achieved TOPS", xlim=(low, high))
    axes.set_ylim(tops.min() / 2, hardware.peak_tops * 2.6)
    axes.grid(True, which="major", lw=0.6)
    legend = axes.legend(loc="upper left", title="pass", alignment="left")
    for handle in legend.legend_handles:
        handle.set_sizes([46])  # type: ignore[union-attr]
        handle.set_alpha(0.9)  # type: ignore[union-attr]
    return figure


TIME_PARTS = {
    "multiplying": "#3565a8",
    "padding, loading, skew": "#a9c3e3",
    "waiting for DRAM": "#d97a2b",
    "waiting on chip": "#efc89d",
    "vector unit": "#8b98a5",
}


@styled
def time_bars(parts: Mapping[str, Mapping[str, float]]) -> Figure:
    """Stacked bars, one a group of operations; milliseconds."""
    figure, axes = picture(9.4, 0.62 * len(parts) + 1.3)
    names = list(parts)[::-1]
    left = np.zeros(len(names))
    for part, colour in TIME_PARTS.items():
        values = np.array([parts[name].get(part, 0.0) for name in names])
        if values.any():
            axes.barh(names, values, left=left, color=colour, label=part, height=0.66)
            left += values
    total = left.sum()
    for y, value in enumerate(left):
        axes.annotate(
            f"{value:,.1f} ms  {value / total:.0%}" if value >= 10 else f"{value:.2g} ms  {value / total:.0%}",
            (value, y),
            (5, 0),
            textcoords="offset points",
            va="center",
            color=SOFT,
        )
    axes.set(xlabel="milliseconds of one step", xlim=(0, left.max() * 1.2))
    axes.grid(axis="x", lw=0.6)
    figure.legend(
        *axes.get_legend_handles_labels(), ncols=5, loc="outside upper right", handlelength=1, columnspacing=1.2
    )
    return figure


@styled
def heat_map(values: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> Figure:
    """Utilization by part of the network and kind of product; empty cells where there is none."""
    figure, axes = picture(9.4, 0.34 * len(rows) + 1.1)
    colours = mpl.colormaps["YlGnBu"].with_extremes(bad="#f4f6f8")
    axes.imshow(np.ma.masked_invalid(values), cmap=colours, vmin=0, vmax=1, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        if np.isfinite(value):
            axes.text(
                x, y, f"{value:.0%}", ha="center", va="center", fontsize=9, color="white" if value > 0.55 else INK
            )
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=2)
    axes.tick_params(which="minor", length=0)
    return figure


ENERGY_COLOURS = ["#3565a8", "#5d8fc9", "#2f8f6b", "#d97a2b", "#8b98a5", "#c9b458"]


@styled
def energy_waterfall(parts_mj: Mapping[str, Interval]) -> Figure:
    """Each part on top of the ones before, with the range of its sources; the total at the right."""
    figure, axes = picture(9.4, 3.9)
    names = [*parts_mj, "total"]
    intervals = np.array(list(parts_mj.values()))
    base = 0.0
    for x, (interval, colour) in enumerate(zip(intervals, ENERGY_COLOURS, strict=True)):
        _bar(axes, x, base, interval, colour)
        axes.plot([x + 0.36, x + 1.36], [base + interval[1]] * 2, color="#c3cad1", lw=0.9, ls="--")
        base += interval[1]
    _bar(axes, len(intervals), 0.0, intervals.sum(axis=0), INK)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("millijoules of one step")
    axes.set_ylim(0, intervals.sum(axis=0)[2] * 1.12)
    axes.grid(axis="y", lw=0.6)
    return figure


def _bar(axes: Axes, x: int, base: float, interval: np.ndarray, colour: str) -> None:
    low, typical, high = interval
    axes.bar(x, typical, bottom=base, color=colour, width=0.72)
    axes.errorbar(x, base + typical, [[typical - low], [high - typical]], color="#47535f", lw=1.1, capsize=3.5)
    axes.annotate(f"{typical:,.4g}", (x, base + high), (0, 4), textcoords="offset points", ha="center", fontsize=9.5)


@styled
def factors(speed: Mapping[str, float], energy: Mapping[str, float]) -> Figure:
    """Factors that multiply to the whole gain: latency and energy, log scale."""
    figure, axes = picture(9.4, 0.62 * len(speed) + 1.2)
    names = list(speed)[::-1]
    for offset, values, colour, label in ((0.19, speed, "#3565a8", "speed"), (-0.19, energy, "#2f8f6b", "energy")):
        y = np.arange(len(names)) + offset
        x = np.array([values[n] for n in names])
        axes.barh(y, x - 1, left=1, height=0.34, color=colour, label=label)
        for at, value in zip(y, x, strict=True):
            axes.annotate(
                f"{value:.2f}x", (max(value, 1), at), (4, 0), textcoords="offset points", va="center", fontsize=9.5
            )
    axes.set_yticks(range(len(names)), names)
    axes.axvline(1, color=INK, lw=1)
    axes.set(
        xlabel="factor of the gain over the plain baseline",
        xlim=(min(0.9, *speed.values(), *energy.values()), max(*speed.values(), *energy.values(), 1.2) * 1.1),
    )
    axes.grid(axis="x", lw=0.6)
    axes.legend(loc="lower right")
    return figure


@styled
def ratio_bars(ratios: Mapping[str, Any], target: float | None, label: str, unit: str = "x") -> Figure:
    """Ratios with their ranges, one a baseline, and the paper's figure as a line."""
    figure, axes = picture(4.9, 0.5 * len(ratios) + 1.35)
    names = list(ratios)[::-1]
    values = np.array([ratios[n] for n in names])
    reached = [target is not None and v[1] >= target for v in values]
    colours = ["#2f8f6b" if r else "#7fa3cc" for r in reached] if target is not None else ["#3565a8"] * len(names)
    axes.barh(names, values[:, 1], color=colours, height=0.62)
    spread = [values[:, 1] - values[:, 0], values[:, 2] - values[:, 1]]
    if np.any(np.array(spread) > 1e-9):
        axes.errorbar(values[:, 1], range(len(names)), xerr=spread, fmt="none", color="#47535f", lw=1.1, capsize=3)
    for y, value in enumerate(values):
        axes.annotate(
            f"{value[1]:.2f}{unit}", (value[2], y), (5, 0), textcoords="offset points", va="center", bbox=LABEL
        )
    if target is not None:
        axes.axvline(target, color="#c2504f", lw=1.5, ls="--")
        axes.annotate(
            f"paper {target:.2f}x",
            (target, len(names) - 0.5),
            (0, 3),
            textcoords="offset points",
            color="#c2504f",
            ha="center",
            va="bottom",
            fontsize=9.5,
            annotation_clip=False,
        )
    axes.set(xlabel=label, xlim=(0, max(values[:, 2].max(), target or 0) * 1.22))
    axes.grid(axis="x", lw=0.6)
    return figure


@styled
def chips(points: Sequence[Chip], ours: Mapping[str, Efficiency]) -> Figure:
    """Energy efficiency over area efficiency, log-log, normalised to 28 nm; ours with its ranges."""
    figure, axes = picture(9.4, 4.4)
    for point in points:
        axes.scatter(
            point.gops_per_mm2,  # type: ignore[arg-type]
            point.tops_per_w,  # type: ignore[arg-type]
            color="#8b98a5",
            s=46,
            marker="o" if point.kind == "chip" else "D",
        )
        axes.annotate(
            f"{point.design} ({point.precision})",
            (point.gops_per_mm2, point.tops_per_w),  # type: ignore[arg-type]
            (7, -3),
            textcoords="offset points",
            color=SOFT,
            fontsize=9.5,
        )
    for (name, found), colour in zip(ours.items(), ("#c2504f", "#3565a8", "#d97a2b", "#2f8f6b"), strict=False):
        area, energy = found.gops_per_mm2, found.tops_per_w
        spread = [[[a[1] - a[0]], [a[2] - a[1]]] for a in (area, energy)]
        axes.errorbar(
            area[1], energy[1], xerr=spread[0], yerr=spread[1], color=colour, fmt="s", ms=7, lw=1.2, capsize=3
        )
        axes.annotate(name, (area[1], energy[1]), (8, -15), textcoords="offset points", color=colour, weight="bold")
    axes.set(xscale="log", yscale="log", xlabel="GOPS a mm2, scaled to 28 nm", ylabel="TOPS a watt, scaled to 28 nm")
    _plain_numbers(axes)
    axes.grid(True, which="major", lw=0.6)
    axes.margins(x=0.18, y=0.14)
    return figure


@styled
def pareto(
    designs: Mapping[str, np.ndarray], front: np.ndarray, reference: Mapping[str, Any] | None, best: int | None
) -> Figure:
    """Latency over energy, colour by area; the front ringed, the reference design as a star."""
    figure, axes = picture(9.4, 5.0)
    x, y, area = designs["latency_ms"], designs["energy_mj"], designs["area_mm2"]
    drawn = axes.scatter(
        x, y, c=area, s=9, cmap="viridis_r", alpha=0.55, linewidth=0, norm=colors.LogNorm(), rasterized=True
    )
    axes.scatter(
        x[front],
        y[front],
        facecolor="none",
        edgecolor="#c2504f",
        s=34,
        linewidth=1.1,
        label="Pareto front (latency, energy, area)",
    )
    if reference:
        axes.scatter(
            reference["latency_ms"],
            reference["energy_mj"],
            marker="*",
            s=210,
            color=INK,
            label=f"{reference['name']}, {reference['area_mm2']:.2f} mm2",
            zorder=5,
        )
    if best is not None:
        axes.scatter(
            x[best],
            y[best],
            marker="P",
            s=130,
            color="#c2504f",
            edgecolor="white",
            label=f"better in all three, {area[best]:.2f} mm2",
            zorder=5,
        )
    axes.set(xscale="log", yscale="log", xlabel="milliseconds a step", ylabel="millijoules a step")
    axes.grid(True, which="both", lw=0.5)
    axes.legend(loc="upper left")
    _plain_numbers(axes)
    bar = figure.colorbar(drawn, ax=axes, label="area, mm2", pad=0.01)
    bar.ax.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    bar.ax.yaxis.set_minor_formatter(ticker.FormatStrFormatter("%g"))
    return figure


def _plain_numbers(axes: Axes) -> None:
    """500 and not 5 x 10^2 on logarithmic axes."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axis.set_minor_formatter(ticker.LogFormatter(minor_thresholds=(1.5, 0.5)))
