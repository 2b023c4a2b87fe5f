"""Integer GEMMs by each level of instructions that this machine has, through the operators, rounding included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from intaglio.errors import UserError
from intaglio.kernels import binding, isa
from intaglio.kernels.row_quantizer import quantize_rows
from intaglio.kernels.weight_product import Window, integer_weight, weight_product
from intaglio.quantizers.formats import parse_format
from intaglio.quantizers.quantize import quantize
from intaglio.speed.harness import Row, fastest_seconds
from intaglio.speed.render import key, rates
from intaglio.speed.suite import Suite

FORMATS = ("int4", "int8")
LEVELS = tuple(level for level in binding.LEVELS if level != "avx512bf16")
"""AVX512-BF16 multiplies integers as AVX-512 does."""
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


def at(level: str, call: Callable[[], object]) -> None:
    isa.use(level)
    call()


def row(name: str, spatial: Any, rows_GR: Any, shape: tuple[int, ...], window: Window, levels: list[str]) -> Row:
    """Seconds of one layer by format, level and direction."""
    out, channels = shape[:2]
    x, grad = torch.randn(*rows_GR, channels), torch.randn(*rows_GR, out)
    calls, names = [], []
    for format in FORMATS:
        w = integer_weight(quantize(torch.randn(shape), parse_format(format), "absmax"))
        for level in levels:
            calls.append(partial(at, level, partial(ours, x, w, window, None, w.scale, spatial, None)))
            back = partial(ours, grad, w, window, w.scale[None], torch.ones(channels), spatial, spatial)
            calls.append(partial(at, level, back))
            names += [f"{format}_{level}_output", f"{format}_{level}_grad_input"]
    seconds = dict(zip(names, fastest_seconds(calls), strict=True))
    return {"case": name, "operations": 2 * spatial[0] * spatial[1] * channels * out * window.taps, **seconds}


def rows() -> Iterator[Row]:
    if binding.library() is None:
        raise UserError("no compiled kernels here: python -m intaglio.kernels.build")
    levels = [name for name, needs in isa.SETS.items() if needs <= isa.detected()]
    used = binding.path_in_use()
    try:
        for name, spatial, rows_GR, shape, window in LAYERS:
            yield row(name, spatial, rows_GR, shape, window, [level for level in levels if level in LEVELS])
    finally:
        isa.use(used)


SUITE = Suite(
    "levels",
    "Single GEMMs by level of instructions",
    "GOP/s, output / grad_input, rounding the operand included; CPU time of the calling thread.",
    (
        key("case", "layer"),
        *(rates(f"{f}, {v}", f"{f}_{v}_output", f"{f}_{v}_grad_input") for f in FORMATS for v in LEVELS),
    ),
    rows,
)
