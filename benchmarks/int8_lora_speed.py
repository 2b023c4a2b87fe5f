"""CPU time of the trained layers of an attention, int8_lora against qlora with float pairs over the same integers.

    python benchmarks/int8_lora_speed.py

Query, key and value of one input, then out, forward and backward, in bfloat16, rank 16, one thread. The shapes are
those of Stable Diffusion 1.5 at 256 px. Time of the thread, fastest of interleaved repeats: others disturb it little.
Writes benchmarks/results/int8_lora_speed.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from intaglio.cli.bench import processor
from intaglio.kernels.binding import path_in_use
from intaglio.layers.frozen import quantize_layer
from intaglio.layers.int8_lora.arithmetic import IntegerArithmetic
from intaglio.layers.int8_lora.layer import Int8LoraLayer
from intaglio.layers.low_rank import LowRankLayer
from intaglio.quantizers.formats import parse_format

SHAPES = [(1024, 320), (256, 640), (64, 1280)]
"""(tokens, channels)."""
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
        results = [layer(x) for layer in layers[:3]] + [layers[3](mixed)]
        between = time.thread_time()
        torch.autograd.backward(results, [grad] * 4)
        return between - begun, time.thread_time() - between

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="int8")
    parser.add_argument("--repeats", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        f"{processor()}, kernels: {path_in_use()}, base {arguments.base}. Forward + backward, ms of one thread, "
        f"fastest of {arguments.repeats}.",
        "",
        f"| tokens x channels | {' | '.join(METHODS)} |",
        "|" + "---|" * (len(METHODS) + 1),
    ]
    for tokens, channels in SHAPES:
        steps = {
            title: step_of([layer_of(how, channels, arguments.base) for _ in range(4)], tokens, channels)
            for title, how in METHODS.items()
        }
        times = {title: (float("inf"), float("inf")) for title in METHODS}
        for _ in range(arguments.repeats):
            for title, step in steps.items():
                forward, backward = step()
                times[title] = min(times[title][0], forward), min(times[title][1], backward)
        cells = [f"{1e3 * f:.2f} + {1e3 * b:.2f} = {1e3 * (f + b):.2f}" for f, b in times.values()]
        lines.append(f"| {tokens} x {channels} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    text = "\n".join(["# int8_lora: speed of its layers", "", "`python benchmarks/int8_lora_speed.py`", "", *lines, ""])
    (Path(__file__).parent / "results" / "int8_lora_speed.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
