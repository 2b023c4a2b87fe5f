"""Integer products by each level of instructions that this machine has, into benchmarks/results/levels.md.

    python benchmarks/levels.py

Measured as in `kernels.py`: one thread's CPU time, interleaved; but through the operators, rounding included.
"""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

import torch

from intaglio.cli.bench import processor
from intaglio.kernels import binding, isa
from intaglio.kernels.row_quantizer import quantize_rows
from intaglio.kernels.weight_product import Window, integer_weight, weight_product
from intaglio.quantizers.formats import parse_format
from intaglio.quantizers.quantize import quantize
from kernels import best_seconds

FORMATS = ("int4", "int8")
MATRICES = [(1024, 320, 320), (1024, 320, 2560), (256, 640, 640), (256, 2560, 640), (64, 1280, 1280), (16, 1280, 1280)]
"""Tokens, input and output features: what the U-Net of Stable Diffusion 1.5 has at 256 px."""
CONVOLUTIONS = [(320, 32, 320), (640, 16, 640), (1280, 8, 1280), (2560, 8, 1280), (1280, 4, 1280)]
"""Input channels, side of the image, output channels; 3 x 3, batch 1."""
LAYERS = [
    *((f"{m} x {i} -> {o}", (1, m), (m, 1), (o, i), Window()) for m, i, o in MATRICES),
    *(
        (f"3 x 3, {s} x {s}, {i} -> {o}", (s, s), (1, s * s), (o, i, 3, 3), Window((3, 3), padding=(1, 1)))
        for i, s, o in CONVOLUTIONS
    ),
]
"""Name, (H, W) of the image, (groups, rows) that share a scale, the weight's shape."""


def ours(x_GRC, weight, window, factor, column_scale, spatial, back_size):
    """Round, then multiply."""
    codes, scale = quantize_rows(x_GRC, factor)
    return weight_product(
        codes.view(1, *spatial, -1), weight, window, row_scale=scale, column_scale=column_scale,
        grad_input_size=back_size,
    )  # fmt: skip


def at(level: str, call) -> None:
    isa.use(level)
    call()


def row(name, spatial, rows_GR, shape, window, levels) -> str:
    """GOP/s of one layer: for each format and level output / grad_input."""
    out, channels = shape[:2]
    operations = 2 * spatial[0] * spatial[1] * channels * out * window.taps
    x, grad = torch.randn(*rows_GR, channels), torch.randn(*rows_GR, out)
    calls = []
    for format in FORMATS:
        w = integer_weight(quantize(torch.randn(shape), parse_format(format), "absmax"))
        for level in levels:
            calls.append(partial(at, level, partial(ours, x, w, window, None, w.scale, spatial, None)))
            back = partial(ours, grad, w, window, w.scale[None], torch.ones(channels), spatial, spatial)
            calls.append(partial(at, level, back))
    gops = [operations / seconds / 1e9 for seconds in best_seconds(calls, 15)]
    return f"| {name} | " + " | ".join(f"{a:.0f} / {b:.0f}" for a, b in zip(gops[::2], gops[1::2], strict=True)) + " |"


def main() -> None:
    torch.set_num_threads(1)
    assert binding.library() is not None, "no compiled kernels here"
    levels = [name for name, needs in isa.SETS.items() if needs <= isa.detected()]
    levels = [name for name in levels if name != "avx512bf16"]  # multiplies integers as avx512 does
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    columns = [f"{format}, {level}" for format in FORMATS for level in levels]
    lines = [
        "# Single products by level",
        "",
        f"`python benchmarks/levels.py`, commit {commit or 'unknown'}, {processor()}, torch {torch.__version__}, one "
        "thread. GOP/s, output / grad_input, rounding the operand included.",
        "",
        f"| layer | {' | '.join(columns)} |",
        "|" + "---|" * (len(columns) + 1),
    ]
    for layer in LAYERS:
        lines.append(row(*layer, levels))
        print(lines[-1], flush=True)
    path = Path(__file__).parent / "results" / "levels.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
