"""Single products on this machine beside its INT8 peak and torch's float products, into benchmarks/results/kernels.md.

    python benchmarks/kernels.py

One thread; the CPU time of that thread, the smallest of several interleaved repeats, so that a busy machine disturbs
the ratios little. Measured is what a layer calls: the compiled function, its arguments laid out before. From product
and rounding alone the time of a call that does nothing is taken off, since a layer makes one call for both. The peak is
a loop of `vpdpbusd` on registers (`kernels/native/peak.cpp`).
"""

from __future__ import annotations

import ctypes
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from intaglio.cli.bench import processor
from intaglio.kernels.binding import library, path_in_use
from intaglio.kernels.row_quantizer.cpu import Rows
from intaglio.kernels.weight_product import LayerCall, Window, integer_weight
from intaglio.quantizers.formats import parse_format
from intaglio.quantizers.quantize import quantize

FORMATS = ("int4", "int8", "nf4")
MATRICES = [
    *((256, i, o) for i, o in [(320, 320), (640, 640), (640, 5120), (2560, 640), (1280, 1280), (5120, 1280)]),
    *((1024, i, o) for i, o in [(320, 320), (320, 2560), (1280, 320), (640, 640), (640, 5120), (2560, 640)]),
    *((4096, i, o) for i, o in [(320, 320), (320, 2560), (1280, 320)]),
    *((64, i, o) for i, o in [(1280, 1280), (1280, 10240), (5120, 1280)]),
    (16, 1280, 1280),
]
"""Tokens, input and output features: what the U-Net of Stable Diffusion 1.5 has at 256 and at 512 px."""
CONVOLUTIONS = [
    (320, 64, 320), (320, 32, 320), (640, 32, 320), (640, 32, 640), (640, 16, 640), (1280, 16, 640), (1280, 16, 1280),
    (1280, 8, 1280), (2560, 8, 1280), (1280, 4, 1280), (2560, 4, 1280),
]  # fmt: skip
"""Input channels, side of the image, output channels; 3 x 3, batch 1."""


def best_seconds(calls: list[Callable[[], object]], repeats: int = 7) -> list[float]:
    """Each call four times in turn: the first ones find the caches full of what others left there."""
    best = [float("inf")] * len(calls)
    for _ in range(repeats):
        for i, call in enumerate(calls):
            for _ in range(4):
                start = time.thread_time()
                call()
                best[i] = min(best[i], time.thread_time() - start)
    return best


def peak_gops() -> float | None:
    """GOP/s of one core on registers; None where the kernels do not run on AVX-512."""
    kernels, rounds = library(), 100_000
    operations = 0 if kernels is None else kernels.intaglio_int8_peak(rounds)
    if kernels is None or not operations:
        return None
    return operations / best_seconds([lambda: kernels.intaglio_int8_peak(rounds)], 50)[0] / 1e9


class Direction:
    """One direction of a layer, as its calls in a training step are: bfloat16, the gradient with a factor by column."""

    def __init__(self, x_BHWC: Tensor, weight, window: Window, back: bool):
        batch, height, width, _ = x_BHWC.shape
        groups = batch * height * width if window.taps == 1 else batch
        self.call = LayerCall(
            weight, window, tuple(x_BHWC.shape), x_BHWC.dtype, groups=groups, bias=None,
            column_scale=torch.ones(weight.shape[2]) if back else weight.scale,
            grad_input_size=(height, width) if back else None,
        )  # fmt: skip
        self.x, self.factor = x_BHWC, weight.scale[None] if back else None
        self.result = self.call(self.x, self.factor)  # the structures keep the addresses, and this the tensors
        self.out = self.call.of_codes(self.result.codes, self.result.scale)

    def calls(self) -> list[Callable[[], object]]:
        """Product alone, rounding alone, both."""
        kernels, layer = library(), self.call.structure
        assert kernels is not None
        product, rows, both = (ctypes.byref(part) for part in (layer.product, layer.rows, layer))
        return [
            lambda: kernels.intaglio_product(product),
            lambda: kernels.intaglio_quantize_rows(rows),
            lambda: kernels.intaglio_layer(both),
        ]


def torch_calls(x: Tensor, grad: Tensor, weight: Tensor, window: Window) -> list[Callable[[], object]]:
    """Both directions in float32, then in bfloat16."""
    calls: list[Callable[[], object]] = []
    for dtype in (torch.float32, torch.bfloat16):
        w = weight.to(dtype)
        if window.taps == 1:
            flat, flat_grad = x.to(dtype).flatten(0, 2), grad.to(dtype).flatten(0, 2)
            calls += [lambda a=flat, w=w: F.linear(a, w), lambda g=flat_grad, w=w: g @ w]
        else:
            a, g = (t.to(dtype).permute(0, 3, 1, 2).contiguous() for t in (x, grad))
            calls += [
                lambda a=a, w=w: F.conv2d(a, w, padding=1),
                lambda a=a, g=g, w=w: torch.ops.aten.convolution_backward(
                    g, a, w, None, (1, 1), (1, 1), (1, 1), False, [0, 0], 1, (True, False, False)
                ),
            ]
    return calls


def empty_call_seconds() -> float:
    """What Python takes to make one of `Direction.calls`."""
    kernels, nothing = library(), ctypes.byref(Rows())
    assert kernels is not None
    return best_seconds([lambda: kernels.intaglio_quantize_rows(nothing)], 100)[0]


def row(name: str, shape_HWIO: tuple[int, int, int, int], window: Window, peak: float | None, empty: float) -> str:
    """A line of the table: a layer of an image (H, W) with I inputs, O outputs; `empty` from `empty_call_seconds`."""
    height, width, inputs, outputs = shape_HWIO
    operations = 2 * height * width * window.taps * inputs * outputs
    x, grad = torch.randn(1, height, width, inputs), torch.randn(1, height, width, outputs)
    weight = torch.randn(outputs, inputs, *window.kernel)
    calls = torch_calls(x, grad, weight if window.taps > 1 else weight[:, :, 0, 0], window)
    kept = []
    for format in FORMATS:
        w = integer_weight(quantize(weight, parse_format(format), "absmax"))
        kept += [Direction(t.bfloat16(), w, window, back) for t, back in ((x, False), (grad, True))]
    for direction in kept:
        calls += direction.calls()
    seconds = best_seconds(calls)
    floats, ours = seconds[:4], seconds[4:]
    gops = [operations / t / 1e9 for t in (*floats, ours[2], ours[5])]
    cells = ["{:.0f} / {:.0f}".format(*gops[i : i + 2]) for i in (0, 2, 4)]
    alone = [t - empty for t in ours]
    for i in range(0, len(ours), 6):
        reached = [operations / alone[i + j] / 1e9 / (peak or 1e-2) for j in (0, 3)]
        cells.append("{:.0%} / {:.0%}".format(*reached) if peak else "{:.0f} / {:.0f}".format(*reached))
    cells.append(f"{alone[1] / alone[0]:.1%} / {alone[4] / alone[3]:.1%}")
    return f"| {name} | {' | '.join(cells)} |"


def heading(peak: float | None, empty: float) -> list[str]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    of_peak = f"the product alone in percent of {peak or 0:.0f} GOP/s, which `vpdpbusd` on registers reaches here"
    return [
        "# Single products",
        "",
        f"`python benchmarks/kernels.py`, commit {commit or 'unknown'}, {processor()}, kernels: {path_in_use()}, torch "
        f"{torch.__version__}.",
        "One thread, output / grad_input, operands in the caches as repeats leave them. What is timed is the compiled "
        "call that a layer makes,",
        "bfloat16 in and out, its arguments laid out before. Columns: GOP/s of torch's products and of the `int4` "
        "call with its rounding;",
        f"then {of_peak if peak else 'GOP/s of the product alone'};",
        f"then rounding the operand, in percent of the `int4` product. Python's call, {empty * 1e6:.1f} us, is taken "
        "off what is timed alone.",
        "",
        f"| layer | float32 | bfloat16 | int4, rounding included | {' | '.join(FORMATS)} | rounding |",
        "|" + "---|" * (len(FORMATS) + 5),
    ]


def main() -> None:
    torch.set_num_threads(1)
    assert library() is not None, "no compiled kernels here: python -m intaglio.kernels.build"
    peak = peak_gops()
    empty = empty_call_seconds()
    lines = heading(peak, empty)
    print("\n".join(lines))
    layers = [(f"{m} x {i} -> {o}", (1, m, i, o), Window()) for m, i, o in MATRICES]
    layers += [
        (f"3 x 3, {s} x {s}, {i} -> {o}", (s, s, i, o), Window((3, 3), padding=(1, 1))) for i, s, o in CONVOLUTIONS
    ]
    for layer in layers:
        lines.append(row(*layer, peak, empty))
        print(lines[-1], flush=True)
    path = Path(__file__).parent / "results" / "kernels.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
