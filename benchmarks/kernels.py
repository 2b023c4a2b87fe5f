"""Single products on this machine, ours against torch's, into benchmarks/results/kernels.md.

    python benchmarks/kernels.py

One thread; the CPU time of that thread, the smallest of several interleaved repeats, so that a busy machine disturbs
the ratios little. Ours includes rounding the operand to INT8 and the float epilogue; torch's is its float32 product.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from intaglio.cli.bench import processor
from intaglio.kernels.binding import path_in_use
from intaglio.kernels.row_quantizer import quantize_rows
from intaglio.kernels.weight_product import Window, integer_weight, weight_product
from intaglio.quantizers.formats import parse_format
from intaglio.quantizers.quantize import quantize

FORMATS = ("int4", "int8", "nf4")
MATRICES = [(1024, 320, 320), (1024, 320, 2560), (256, 640, 640), (256, 2560, 640), (64, 1280, 1280), (16, 1280, 1280)]
"""Tokens, input and output features: what the U-Net of Stable Diffusion 1.5 has at 256 px."""
CONVOLUTIONS = [(320, 32, 320), (640, 16, 640), (1280, 8, 1280), (2560, 8, 1280), (1280, 4, 1280)]
"""Input channels, side of the image, output channels; 3 x 3, batch 1."""


def best_seconds(calls: list[Callable[[], object]], repeats: int = 7) -> list[float]:
    best = [float("inf")] * len(calls)
    for _ in range(repeats):
        for i, call in enumerate(calls):
            start = time.thread_time()
            call()
            best[i] = min(best[i], time.thread_time() - start)
    return best


def ours(x_GRC, weight, window, factor, column_scale, spatial, back_size):
    """Round, then multiply."""
    codes, scale = quantize_rows(x_GRC, factor)
    return weight_product(
        codes.view(1, *spatial, -1), weight, window, row_scale=scale, column_scale=column_scale,
        grad_input_size=back_size,
    )  # fmt: skip


def row(name: str, x, weight, window, spatial, rows_GR, operations: int) -> str:
    """Times of both directions for one layer; `x` and the gradient lie channels-last, (1, H, W, C)."""
    out, channels = weight.shape[:2]
    grad = torch.randn(*x.shape[:3], out)
    if window.taps == 1:
        flat, flat_grad = x.flatten(0, 2), grad.flatten(0, 2)
        calls = [lambda: F.linear(flat, weight), lambda: flat_grad @ weight]
    else:
        image, image_grad = (t.permute(0, 3, 1, 2).contiguous() for t in (x, grad))
        calls = [
            lambda: F.conv2d(image, weight, padding=1),
            lambda: torch.ops.aten.convolution_backward(
                image_grad, image, weight, None, (1, 1), (1, 1), (1, 1), False, [0, 0], 1, (True, False, False)
            ),
        ]
    for format in FORMATS:
        w = integer_weight(quantize(weight, parse_format(format), "absmax"))
        calls += [
            lambda w=w: ours(x.view(*rows_GR, channels), w, window, None, w.scale, spatial, None),
            lambda w=w: ours(
                grad.view(*rows_GR, out), w, window, w.scale[None], torch.ones(channels), spatial, spatial
            ),
        ]
    calls.append(lambda: quantize_rows(x.view(*rows_GR, channels)))
    *times, rounding = best_seconds(calls)
    ratios = [f"{times[0] / t:.2f} / {times[1] / b:.2f}" for t, b in zip(times[2::2], times[3::2], strict=True)]
    gops = [f"{operations / t / 1e9:.0f}" for t in times[:2]]
    return f"| {name} | {gops[0]} / {gops[1]} | {' | '.join(ratios)} | {rounding / times[2]:.0%} |"


def main() -> None:
    torch.set_num_threads(1)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    lines = [
        "# Single products",
        "",
        f"`python benchmarks/kernels.py`, commit {commit or 'unknown'}, {processor()}, kernels: {path_in_use()}, torch "
        f"{torch.__version__}, one thread. How many times faster than torch's float32 product, output / grad_input;",
        "rounding the operand is included, and its share of the int4 output stands in the last column.",
        "",
        f"| layer | float32 GOP/s | {' | '.join(FORMATS)} | rounding |",
        "|" + "---|" * (len(FORMATS) + 3),
    ]
    for tokens, inputs, outputs in MATRICES:
        x, weight = torch.randn(1, 1, tokens, inputs), torch.randn(outputs, inputs)
        name = f"{tokens} x {inputs} -> {outputs}"
        lines.append(row(name, x, weight, Window(), (1, tokens), (tokens, 1), 2 * tokens * inputs * outputs))
        print(lines[-1], flush=True)
    window = Window((3, 3), padding=(1, 1))
    for inputs, side, outputs in CONVOLUTIONS:
        x, weight = torch.randn(1, side, side, inputs), torch.randn(outputs, inputs, 3, 3)
        name = f"3 x 3, {side} x {side}, {inputs} -> {outputs}"
        operations = 18 * side * side * inputs * outputs
        lines.append(row(name, x, weight, window, (side, side), (1, side * side), operations))
        print(lines[-1], flush=True)
    path = Path(__file__).parent / "results" / "kernels.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
