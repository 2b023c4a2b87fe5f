"""Row-wise operations on this machine, ours against torch's, into benchmarks/results/rows.md.

    python benchmarks/rows.py

One thread; the CPU time of that thread, the smallest of several interleaved repeats, calls through Python and all. In
thousands of millions of elements of the input (of the output, for gates) a second. torch's quantizer is the eager one:
largest magnitude, scale, round, clamp, cast.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from intaglio.cli.bench import processor
from intaglio.kernels.binding import path_in_use
from intaglio.kernels.column_sums import column_sums
from intaglio.kernels.gated import gated_activation
from intaglio.kernels.group_norm import group_norm
from intaglio.kernels.layer_norm import layer_norm
from intaglio.kernels.row_quantizer import quantize_rows
from kernels import best_seconds

DTYPES = (torch.bfloat16, torch.float32)
TOKENS = [(1024, 320), (256, 640), (64, 1280), (1024, 1280)]
"""Rows and columns: what the U-Net of Stable Diffusion 1.5 has at 256 px."""
PICTURES = [(32, 320), (32, 960), (16, 640), (8, 1280), (4, 1280)]
"""Side and channels, batch 1."""
GATES = [(1024, 1280), (256, 2560), (64, 5120)]

Call = Callable[[], object]


def eager_quantize(x_GRC: Tensor, factor: Tensor | None = None) -> tuple[Tensor, Tensor]:
    v = x_GRC.float() if factor is None else x_GRC * factor
    scale = v.abs().amax((1, 2), keepdim=True) / 127
    return (v / scale).round().clamp(-127, 127).to(torch.int8), scale


def quantizers(dtype: torch.dtype) -> Iterator[tuple[str, int, Call, Call | None]]:
    for rows, columns in TOKENS:
        x, factor = torch.randn(rows, 1, columns).to(dtype), torch.rand(1, columns) + 0.5
        name, size = f"{rows} x {columns}", x.numel()
        yield f"quantize tokens, {name}", size, lambda x=x: quantize_rows(x), lambda x=x: eager_quantize(x)
        yield (
            f"the same, with a factor, {name}", size,
            lambda x=x, f=factor: quantize_rows(x, f), lambda x=x, f=factor: eager_quantize(x, f),
        )  # fmt: skip
        codes, scale = quantize_rows(x)
        wide, codes = x.view(1, rows, columns), codes.view(1, rows, columns)
        yield (
            f"column sums of x * codes, {name}", size,
            lambda a=wide, c=codes, s=scale: column_sums(a, c, s),
            lambda a=wide, c=codes, s=scale: (a.float() * (c * s[:, None])).sum(1),
        )  # fmt: skip
    for side, channels in PICTURES:
        x = torch.randn(1, side * side, channels).to(dtype)
        name = f"{side} x {side} x {channels}"
        yield f"quantize a picture, {name}", x.numel(), lambda x=x: quantize_rows(x), lambda x=x: eager_quantize(x)


def with_gradient(name: str, size: int, x: Tensor, ours: Callable, torchs: Callable) -> Iterator:
    """Forward, and both passes together: what a layer costs in a step."""
    yield f"{name}, forward", size, lambda: ours(x), lambda: torchs(x)
    leaf, grad = x.detach().requires_grad_(), torch.randn_like(torchs(x))
    for_both = [lambda f=f: torch.autograd.grad(f(leaf), leaf, grad) for f in (ours, torchs)]
    yield f"{name}, both passes", size, *for_both


def norms_and_gates(dtype: torch.dtype) -> Iterator[tuple[str, int, Call, Call | None]]:
    for side, channels in PICTURES:
        x = torch.randn(1, channels, side, side).to(dtype).to(memory_format=torch.channels_last)
        affine = torch.randn(2, channels).to(dtype).unbind()
        yield from with_gradient(
            f"group norm and SiLU, {side} x {side} x {channels}", x.numel(), x,
            lambda x, p=affine: group_norm(x, 32, *p, silu=True, keep="codes"),
            lambda x, p=affine: F.silu(F.group_norm(x, 32, *p)),
        )  # fmt: skip
    for rows, columns in TOKENS:
        x, affine = torch.randn(rows, columns).to(dtype), torch.randn(2, columns).to(dtype).unbind()
        yield from with_gradient(
            f"layer norm, {rows} x {columns}", x.numel(), x,
            lambda x, p=affine: layer_norm(x, *p, keep="codes"),
            lambda x, p=affine: F.layer_norm(x, x.shape[1:], *p),
        )  # fmt: skip
    for rows, columns in GATES:
        x = torch.randn(rows, 2 * columns).to(dtype)
        yield from with_gradient(
            f"GEGLU, {rows} x {columns}", rows * columns, x,
            gated_activation, lambda x: torch.mul(x.chunk(2, -1)[0], F.gelu(x.chunk(2, -1)[1])),
        )  # fmt: skip


def measured(cases: Callable[[torch.dtype], Iterator]) -> Iterator[str]:
    for in_dtypes in zip(*(cases(dtype) for dtype in DTYPES), strict=True):
        calls = [call for case in in_dtypes for call in case[2:] if call is not None]
        seconds = iter(best_seconds([lambda c=c: [c() for _ in range(4)] for c in calls], repeats=9))
        cells = []
        for case in in_dtypes:
            cells += [f"{4 * case[1] / next(seconds) / 1e9:.1f}" if call else "" for call in case[2:]]
        yield f"| {in_dtypes[0][0]} | {' | '.join(cells)} |"


def keep_freed_memory() -> None:
    """Freed buffers stay with the process, so that no contestant pays for page faults, which come and go."""
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD, at its largest
    libc.mallopt(-1, 2**30)  # M_TRIM_THRESHOLD


def main() -> None:
    keep_freed_memory()
    torch.set_num_threads(1)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    lines = [
        "# Row-wise operations",
        "",
        f"`python benchmarks/rows.py`, commit {commit or 'unknown'}, {processor()}, kernels: {path_in_use()}, torch "
        f"{torch.__version__}, one thread. 10^9 elements a second, calls through Python and all. Norms and GEGLU keep",
        "INT8 codes for their gradient, which is paid for in `both passes` here.",
        "",
        "| operation | ours bfloat16 | torch bfloat16 | ours float32 | torch float32 |",
        "|---|---|---|---|---|",
    ]
    for cases in (quantizers, norms_and_gates):
        for line in measured(cases):
            lines.append(line)
            print(line, flush=True)
    path = Path(__file__).parent / "results" / "rows.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
