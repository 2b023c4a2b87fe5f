"""The block diagram of a machine, drawn from its design: what `docs/images/rtl.svg` is made by.

python -m intaglio.rtl.diagram docs/images/rtl.svg
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from intaglio.rtl.design import Design, input_bits
from intaglio.rtl.instructions import ENGINES, INSTRUCTION

_INK, _FILL, _ARRAY = "#1b1b1b", "#eef2f7", "#dbe8d8"


def draw(design: Design, path: Path) -> None:
    """Boxes are modules of `machine.py`; a line is a bus, with its width in bits."""
    figure = Figure(figsize=(10, 6.2))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-14, 114), ylim=(0, 62))
    axes.set_axis_off()
    halves = "two halves" if design.halves == 2 else "one half"
    operand, sums = design.operand_bits, design.sum_bits
    left, right, out = design.rows * operand, design.cols * operand, design.cols * sums
    boxes = {
        "controller": (4, 50, 24, 9, f"controller\n{', '.join(ENGINES)}", _FILL),
        "sequencer": (4, 35, 24, 9, f"sequencer\nfolds, {design.overlap}", _FILL),
        "left": (4, 19, 20, 9, f"left buffer, {halves}\n{design.left_words:,} words of {design.rows}", _FILL),
        "right": (40, 50, 24, 9, f"right buffer, {halves}\n{design.right_words:,} words of {design.cols}", _FILL),
        "array": (40, 14, 24, 28, f"skew\n\n{design.rows} x {design.cols} PEs\n{_modes(design)}\n\ndeskew", _ARRAY),
        "accumulator": (40, 2, 24, 7, "accumulator\nfolds of a reduction, split-K", _FILL),
        "result": (76, 14, 21, 10, f"result buffer, {halves}\n{design.result_words:,} words of {design.cols}", _FILL),
        "requantizer": (76, 35, 21, 13, f"requantizer\n{design.cols} lanes: scan, shift,\ndither, clip", _FILL),
    }
    for x, y, width, height, text, fill in boxes.values():
        style = "round,pad=0,rounding_size=1"
        axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=fill, edgecolor=_INK))
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=8.5, color=_INK)
    arrows = (
        ((-12, 57), (4, 57), f"{INSTRUCTION.size}", "instructions"),
        ((-12, 52), (4, 52), f"{input_bits(design)}", "operands"),
        ((16, 50), (16, 44), "GEMM", ""),
        ((28, 39.5), (40, 39.5), "tags", ""),
        ((24, 23.5), (40, 23.5), f"{left}", ""),
        ((28, 54.5), (40, 54.5), f"{right}", ""),
        ((52, 50), (52, 42), f"{right}", ""),
        ((52, 14), (52, 9), f"{out}", ""),
        ((64, 5.5), (86, 14), f"{out}", ""),
        ((83, 24), (83, 35), f"{out}", ""),
        ((90, 35), (90, 24), "codes, exponents", ""),
        ((97, 19), (110, 19), f"{out}", "sums"),
        ((60, 46), (60, 50), "", ""),
    )
    for start, end, label, name in arrows:
        axes.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": "-|>", "color": _INK, "lw": 1.2})
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        x = start[0] if start[0] < 0 else x
        axes.text(x + 0.6, y + 0.6, f"{name} {label}".strip(), fontsize=8, color=_INK)
    axes.plot([76, 34, 34, 14, 14], [46, 46, 31, 31, 28], color=_INK, lw=1.2)
    axes.annotate("", xy=(14, 28), xytext=(14, 29), arrowprops={"arrowstyle": "-|>", "color": _INK, "lw": 1.2})
    axes.plot([4, 1, 1], [51, 51, 23.5], color=_INK, lw=1.2)
    axes.annotate("", xy=(4, 23.5), xytext=(1, 23.5), arrowprops={"arrowstyle": "-|>", "color": _INK, "lw": 1.2})
    axes.text(-3.5, 37, f"{left}", fontsize=8, color=_INK)
    axes.text(66, 46.6, "codes", fontsize=8, color=_INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def _modes(design: Design) -> str:
    names = [name for name, has in (("WS", design.has_ws), ("OS", design.has_os)) if has]
    return f"{' or '.join(names)}, {'two registers' if design.second_register else 'one register'}"


if __name__ == "__main__":
    draw(Design(16, 16, overlap="wavefront", left_words=16384, right_words=65536, result_words=4096), Path(sys.argv[1]))
