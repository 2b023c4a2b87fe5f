"""Attention of Stable Diffusion 1.5 on this machine, ours against torch's, into benchmarks/results/attention.md.

    python benchmarks/attention.py      # one thread, then two; two minutes, on a machine that does nothing else
    python benchmarks/attention.py 1    # one thread; the file keeps the other table

The smallest wall time of several interleaved repeats. Counted are 4 T S d operations a head forward (T queries, S
keys, d channels) and 10 T S d backward; what a kernel computes again is not. INT8 is the forward pass with both
products in INT8. Errors are |x - exact| / |exact|, exact in float64 from the same bfloat16 operands, |.| the root of
the sum of squares.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from intaglio.cli.bench import processor
from intaglio.kernels.attention.op import attention_operator, gradient_operator
from intaglio.kernels.attention.reference import attend, attend_gradient
from intaglio.kernels.binding import path_in_use

HEADS = 8
CASES = [  # what it is, batch, queries, keys, head_dim
    ("512 px, self", 1, 4096, 4096, 40),
    ("512 px, self", 1, 1024, 1024, 80),
    ("512 px, self", 1, 256, 256, 160),
    ("512 px, text", 1, 4096, 77, 40),
    ("256 px, self", 1, 1024, 1024, 40),
    ("256 px, self", 1, 256, 256, 80),
    ("256 px, self", 1, 64, 64, 160),
    ("256 px, text", 1, 1024, 77, 40),
    ("256 px, text", 1, 256, 77, 80),
    ("256 px, text", 1, 64, 77, 160),
    ("256 px, self, batch 4", 4, 1024, 1024, 40),
    ("256 px, self, batch 4", 4, 256, 256, 80),
    ("256 px, self, batch 4", 4, 64, 64, 160),
    ("256 px, text, batch 4", 4, 1024, 77, 40),
    ("d = 64", 1, 1024, 1024, 64),
    ("d = 64", 1, 4096, 4096, 64),
]
FILE = Path(__file__).parent / "results" / "attention.md"


def best_seconds(calls: list[Callable[[], object]], budget_seconds: float = 3.0) -> list[float]:
    """At least two repeats of all, at most a hundred, for about as long as the budget; a first one is not counted."""
    best = [float("inf")] * len(calls)
    end = time.perf_counter() + budget_seconds
    for repeat in range(100):
        for i, call in enumerate(calls):
            start = time.perf_counter()
            call()
            if repeat:
                best[i] = min(best[i], time.perf_counter() - start)
        if repeat > 1 and time.perf_counter() > end:
            break
    return best


def operands(batch: int, queries: int, keys: int, head_dim: int) -> list[Tensor]:
    """q, k, v and the gradient, as the projections of a U-Net give them: memory (B, T, H, D)."""
    lengths = (queries, keys, keys, queries)
    return [torch.randn(batch, t, HEADS, head_dim).bfloat16().transpose(1, 2) for t in lengths]


def torchs(dtype: torch.dtype, made: list[Tensor]) -> list[Callable[[], object]]:
    """torch's fused kernels, without what autograd adds."""
    q, k, v, grad = (x.to(dtype) for x in made)
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    gradient = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    out, lse = fused(q, k, v)
    return [lambda: fused(q, k, v), lambda: gradient(grad, q, k, v, out, lse, 0.0, False)]


def ours(made: list[Tensor], int8: bool = False) -> list[Callable[[], object]]:
    q, k, v, grad = made
    scale = q.shape[3] ** -0.5
    out, lse = attention_operator(q, k, v, scale, int8)
    return [
        lambda: attention_operator(q, k, v, scale, int8),
        lambda: gradient_operator(grad, q, k, v, out, lse, scale),
    ]


def row(title: str, batch: int, queries: int, keys: int, head_dim: int) -> str:
    made = operands(batch, queries, keys, head_dim)
    calls = [*ours(made), *torchs(torch.bfloat16, made), *torchs(torch.float32, made), ours(made, int8=True)[0]]
    *times, int8 = best_seconds(calls)
    operations = 4 * batch * HEADS * queries * keys * head_dim
    rates = [operations * (1, 2.5)[i % 2] / t / 1e9 for i, t in enumerate(times)]
    cells = [f"{rates[i]:.0f} / {rates[i + 1]:.0f}" for i in (0, 2, 4)]
    gain = f"{times[2] / times[0]:.1f} / {times[3] / times[1]:.1f}"
    cells += [gain, f"{times[0] * 1e3:.2f} / {times[1] * 1e3:.2f}", f"{operations / int8 / 1e9:.0f}"]
    return f"| {title} | {queries} x {keys} | {head_dim} | {' | '.join(cells)} |"


def errors() -> str:
    lines = [
        "## Errors",
        "",
        "| queries x keys | d | of | ours | torch bfloat16 | INT8 |",
        "|---|---|---|---|---|---|",
    ]
    for queries, keys, head_dim in ((1024, 1024, 40), (256, 77, 80), (64, 64, 160)):
        torch.manual_seed(0)
        made = operands(1, queries, keys, head_dim)
        q, k, v, grad = (x.double() for x in made)
        scale = head_dim**-0.5
        out, lse = attend(q, k, v, scale)
        exact = (out, *attend_gradient(grad, q, k, v, out, lse, scale))
        results = []
        for forward, backward in (ours(made), torchs(torch.bfloat16, made), ours(made, int8=True)):
            results.append((forward()[0], *backward()))  # type: ignore[index,misc]
        for i, name in enumerate(("out", "dq", "dk", "dv")):
            parts = [f"{(r[i].double() - exact[i]).norm() / exact[i].norm():.2%}" for r in results]
            lines.append(f"| {queries} x {keys} | {head_dim} | {name} | {' | '.join(parts)} |")
    return "\n".join(lines) + "\n"


def table(threads: int) -> str:
    torch.set_num_threads(threads)
    lines = [
        f"## {threads} thread{'s' * (threads > 1)}",
        "",
        "| layer | queries x keys | d | ours | torch bfloat16 | torch float32 | times torch | ours, ms | INT8 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in CASES:
        lines.append(row(*case))
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    wanted = [int(n) for n in sys.argv[1:]] or [1, 2]
    found = FILE.read_text(encoding="utf-8").split("\n## ")[1:] if FILE.exists() else []
    tables = {int(text.split()[0]): f"## {text.rstrip()}\n" for text in found if text[0].isdigit()}
    for threads in wanted:
        tables[threads] = table(threads)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    head = [
        "# Attention",
        "",
        f"`python benchmarks/attention.py`, commit {commit or 'unknown'}, {processor()}, kernels: {path_in_use()}, "
        f"torch {torch.__version__}. Forward / backward in GF/s, {HEADS} heads.",
        "",
    ]
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text("\n".join([*head, *(tables[n] for n in sorted(tables)), errors()]), encoding="utf-8")


if __name__ == "__main__":
    main()
