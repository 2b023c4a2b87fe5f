"""The trained layers of an attention: int8_lora against qlora with float adapters over the same integers.

Query, key and value of one input, then out, forward and backward, in bfloat16, rank 16. The shapes are those of Stable
Diffusion 1.5 at 256 px.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import nn

from intaglio.layers.frozen import quantize_layer
from intaglio.layers.int8_lora.arithmetic import IntegerArithmetic
from intaglio.layers.int8_lora.layer import Int8LoraLayer
from intaglio.layers.low_rank import LowRankLayer
from intaglio.layers.shared_input import project
from intaglio.quantizers.formats import parse_format
from intaglio.speed.harness import Row
from intaglio.speed.render import Column, key
from intaglio.speed.suite import Suite

SHAPES = [(1024, 320), (256, 640), (64, 1280)]
"""(tokens, channels)."""
BASE, REPEATS = "int8", 40
METHODS: dict[str, IntegerArithmetic | None] = {
    "qlora": None,
    "int8_lora": IntegerArithmetic(),
    "int8_lora, powers of two": IntegerArithmetic(scale="power_of_two"),
    "int8_lora, integer adapter": IntegerArithmetic(integer_adapter=True),
}


def layer_of(how: IntegerArithmetic | None, channels: int, base: str) -> nn.Module:
    torch.manual_seed(0)
    frozen = quantize_layer(nn.Linear(channels, channels).bfloat16(), parse_format(base), "absmax")
    frozen.compute = "integer"
    layer = LowRankLayer(frozen, 16, 16.0) if how is None else Int8LoraLayer(frozen, 16, 16.0, how)
    with torch.no_grad():
        layer.lora_b.copy_(0.02 * torch.randn(layer.lora_b.shape))
    return layer


def step_of(layers: list[nn.Module], tokens: int, channels: int) -> Callable[[], tuple[float, float]]:
    """Seconds of the thread, forward and backward."""
    source, mixed, grad = (torch.randn(tokens, channels).bfloat16() for _ in range(3))
    source.requires_grad_()
    mixed.requires_grad_()

    def step() -> tuple[float, float]:
        x = source * 1
        begun = time.thread_time()
        results = [*project(x, *layers[:3]), layers[3](mixed)]
        between = time.thread_time()
        torch.autograd.backward(results, [grad] * 4)
        return between - begun, time.thread_time() - between

    return step


def rows() -> Iterator[Row]:
    for tokens, channels in SHAPES:
        steps = {
            title: step_of([layer_of(how, channels, BASE) for _ in range(4)], tokens, channels)
            for title, how in METHODS.items()
        }
        times = {title: [float("inf"), float("inf")] for title in METHODS}
        for _ in range(REPEATS):
            for title, step in steps.items():
                times[title] = [min(best, now) for best, now in zip(times[title], step(), strict=True)]
        yield {"case": f"{tokens} x {channels}", **times}


def passes(title: str) -> Column:
    def cell(row: Row, _: Row) -> str:
        forward, backward = (1e3 * seconds for seconds in row[title])
        return f"{forward:.2f} + {backward:.2f} = {forward + backward:.2f}"

    return Column(title, cell)


SUITE = Suite(
    "int8_lora",
    "Trained layers of an attention",
    f"Forward + backward, ms of the calling thread, fastest of {REPEATS}; base {BASE}.",
    (key("case", "tokens x channels"), *(passes(title) for title in METHODS)),
    rows,
)
