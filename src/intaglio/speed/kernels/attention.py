"""Attention at the shapes of Stable Diffusion 1.5, ours against torch's fused kernels.

Counted are 4 T S d operations a head forward (T queries, S keys, d channels) and 10 T S d backward; what a kernel
computes again is not. INT8 is the forward pass with both GEMMs in INT8. Errors are |x - exact| / |exact|, exact in
float64 from the same bfloat16 operands, |.| the root of the sum of squares.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from intaglio.kernels.attention.op import attention_operator, gradient_operator
from intaglio.kernels.attention.reference import attend, attend_gradient
from intaglio.speed.harness import Row, fastest_seconds
from intaglio.speed.render import Column, key, rate, rates
from intaglio.speed.suite import Suite

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
LARGEST_EXACT = 1024
"""Queries up to which the errors are measured too: float64 attention is slow."""
NAMES = ("out", "dq", "dk", "dv")


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


def row(title: str, batch: int, queries: int, keys: int, head_dim: int) -> Row:
    """Seconds of one layer; wall time, so that several threads count."""
    made = operands(batch, queries, keys, head_dim)
    calls = [*ours(made), *torchs(torch.bfloat16, made), *torchs(torch.float32, made), ours(made, int8=True)[0]]
    names = [f"{who}_{way}" for who in ("ours", "bfloat16", "float32") for way in ("output", "grad_input")]
    seconds = fastest_seconds(calls, repeats=100, inner=1, clock=time.perf_counter, budget_s=3.0)
    operations = 4 * batch * HEADS * queries * keys * head_dim
    shape = {"case": title, "shape": f"{queries} x {keys}", "head_dim": head_dim}
    found = {"operations": [operations, 2.5 * operations], "int8_operations": operations}
    return shape | found | dict(zip([*names, "int8"], seconds, strict=True))


def errors(queries: int, keys: int, head_dim: int) -> dict[str, list[float]]:
    """Relative errors of the output and the three gradients: ours, torch's in bfloat16, ours in INT8."""
    made = operands(1, queries, keys, head_dim)
    q, k, v, grad = (x.double() for x in made)
    scale = head_dim**-0.5
    out, lse = attend(q, k, v, scale)
    exact = (out, *attend_gradient(grad, q, k, v, out, lse, scale))
    found = {}
    ways = {"ours": ours(made), "bfloat16": torchs(torch.bfloat16, made), "int8": ours(made, int8=True)}
    for name, (forward, backward) in ways.items():
        results = (forward()[0], *backward())  # type: ignore[index,misc]
        found[f"{name}_errors"] = [
            float((r.double() - e).norm() / e.norm()) for r, e in zip(results, exact, strict=True)
        ]
    return found


def rows() -> Iterator[Row]:
    torch.manual_seed(0)
    for case in CASES:
        measured = row(*case)
        yield {**measured, **errors(*case[2:])} if case[1] == 1 and case[2] <= LARGEST_EXACT else measured


def gain(row: Row, _: Row) -> str:
    return " / ".join(f"{row[f'bfloat16_{way}'] / row[f'ours_{way}']:.1f}" for way in ("output", "grad_input"))


def shown_errors(name: str) -> Column:
    def cell(row: Row, _: Row) -> str:
        return ", ".join(f"{error:.2%}" for error in row.get(f"{name}_errors", ()))

    return Column(f"errors of {', '.join(NAMES)}: {name}", cell)


SUITE = Suite(
    "attention",
    "Attention",
    f"Forward / backward in GF/s, {HEADS} heads, wall time.",
    (
        key("case", "layer"),
        key("shape", "queries x keys"),
        key("head_dim", "d"),
        *(rates(who, f"{who}_output", f"{who}_grad_input") for who in ("ours", "bfloat16", "float32")),
        Column("times torch bfloat16", gain),
        rate("INT8", "int8", "int8_operations"),
        *(shown_errors(name) for name in ("ours", "bfloat16", "int8")),
    ),
    rows,
)
