"""Single GEMMs and convolutions beside this machine's INT8 peak and torch's float ones.

Measured is what a layer calls: the compiled function, its arguments laid out before. From multiplying and rounding
alone the time of a call that does nothing is taken off, since a layer makes one call for both. The peak is a loop of
`vpdpbusd` on registers (`kernels/cpu/peak.cpp`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from intaglio.errors import UserError
from intaglio.kernels.binding import library
from intaglio.kernels.row_quantizer.cpu import Rows
from intaglio.kernels.weight_product import LayerCall, Window, integer_weight
from intaglio.quantizers.formats import parse_format
from intaglio.quantizers.quantize import quantize
from intaglio.speed.harness import Row, fastest_seconds
from intaglio.speed.render import Column, key, rates
from intaglio.speed.suite import Suite

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


def peak_rate() -> float | None:
    """INT8 operations a second of one core on registers; None where the kernels do not run on AVX-512."""
    kernels, rounds = library(), 100_000
    operations = 0 if kernels is None else kernels.intaglio_int8_peak(rounds)
    if kernels is None or not operations:
        return None
    return operations / fastest_seconds([lambda: kernels.intaglio_int8_peak(rounds)], repeats=50)[0]


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
        """Multiplying alone, rounding alone, both."""
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
    return fastest_seconds([lambda: kernels.intaglio_quantize_rows(nothing)], repeats=100)[0]


def row(name: str, shape_HWIO: tuple[int, int, int, int], window: Window) -> dict[str, Any]:
    """Seconds of one layer, of an image (H, W) with I inputs and O outputs, in both directions."""
    height, width, inputs, outputs = shape_HWIO
    x, grad = torch.randn(1, height, width, inputs), torch.randn(1, height, width, outputs)
    weight = torch.randn(outputs, inputs, *window.kernel)
    names = [f"{dtype}_{way}" for dtype in ("float32", "bfloat16") for way in ("output", "grad_input")]
    calls = torch_calls(x, grad, weight if window.taps > 1 else weight[:, :, 0, 0], window)
    directions = []
    for format in FORMATS:
        w = integer_weight(quantize(weight, parse_format(format), "absmax"))
        for way, tensor in (("output", x), ("grad_input", grad)):
            directions.append(Direction(tensor.bfloat16(), w, window, way == "grad_input"))
            calls += directions[-1].calls()
            names += [f"{format}_{way}_alone", f"{format}_{way}_rounding", f"{format}_{way}"]
    found = dict(zip(names, fastest_seconds(calls), strict=True))
    empty = empty_call_seconds()
    for timed in (n for n in found if n.endswith(("_alone", "_rounding"))):
        found[timed] -= empty
    return {"case": name, "operations": 2 * height * width * window.taps * inputs * outputs, **found}


def rows() -> Iterator[Row]:
    if library() is None:
        raise UserError("no compiled kernels here: python -m intaglio.kernels.build")
    peak = peak_rate()
    for m, i, o in MATRICES:
        yield row(f"{m} x {i} -> {o}", (1, m, i, o), Window()) | {"peak": peak}
    for i, s, o in CONVOLUTIONS:
        window = Window((3, 3), padding=(1, 1))
        yield row(f"3 x 3, {s} x {s}, {i} -> {o}", (s, s, i, o), window) | {"peak": peak}


def of_peak(format: str, row: Row, _: Row) -> str:
    """Multiplying alone, in percent of the peak, or in GOP/s where no peak is known."""
    reached = [row["operations"] / row[f"{format}_{way}_alone"] for way in ("output", "grad_input")]
    return " / ".join(f"{r / row['peak']:.0%}" if row["peak"] else f"{r / 1e9:.0f}" for r in reached)


def rounding(row: Row, _: Row) -> str:
    shares = [row[f"int4_{way}_rounding"] / row[f"int4_{way}_alone"] for way in ("output", "grad_input")]
    return " / ".join(f"{share:.1%}" for share in shares)


SUITE = Suite(
    "gemm",
    "Single GEMMs",
    "Output / grad_input, bfloat16 in and out, operands in the caches as repeats leave them. GOP/s of torch's and of "
    "our int4 call with its rounding; then multiplying alone, in percent of what `vpdpbusd` on registers reaches here "
    "(GOP/s where that is not known); then rounding the operand, in percent of multiplying in int4. CPU time of the "
    "calling thread.",
    (
        key("case", "layer"),
        *(rates(d, f"{d}_output", f"{d}_grad_input") for d in ("float32", "bfloat16")),
        rates("int4, rounding included", "int4_output", "int4_grad_input"),
        *(Column(format, partial(of_peak, format)) for format in FORMATS),
        Column("rounding", rounding),
    ),
    rows,
)
