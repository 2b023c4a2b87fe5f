"""Row-wise operations, ours against torch's: quantizing, norms, gates, column sums.

Calls through Python and all. torch's quantizer is the eager one: largest magnitude, scale, round, clamp, cast.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from intaglio.kernels.column_sums import column_sums
from intaglio.kernels.gated import gated_activation
from intaglio.kernels.group_norm import group_norm
from intaglio.kernels.layer_norm import layer_norm
from intaglio.kernels.row_quantizer import quantize_rows
from intaglio.speed.harness import Row, fastest_seconds
from intaglio.speed.render import key, rate
from intaglio.speed.suite import Suite

DTYPES = (torch.bfloat16, torch.float32)
TOKENS = [(1024, 320), (256, 640), (64, 1280), (1024, 1280)]
"""Rows and columns: what the U-Net of Stable Diffusion 1.5 has at 256 px."""
IMAGES = [(32, 320), (32, 960), (16, 640), (8, 1280), (4, 1280)]
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
    for side, channels in IMAGES:
        x = torch.randn(1, side * side, channels).to(dtype)
        name = f"{side} x {side} x {channels}"
        yield f"quantize an image, {name}", x.numel(), lambda x=x: quantize_rows(x), lambda x=x: eager_quantize(x)


def with_gradient(name: str, size: int, x: Tensor, ours: Callable, torchs: Callable) -> Iterator:
    """Forward, and both passes together: what a layer costs in a step."""
    yield f"{name}, forward", size, lambda: ours(x), lambda: torchs(x)
    leaf, grad = x.detach().requires_grad_(), torch.randn_like(torchs(x))
    for_both = [lambda f=f: torch.autograd.grad(f(leaf), leaf, grad) for f in (ours, torchs)]
    yield f"{name}, both passes", size, *for_both


def norms_and_gates(dtype: torch.dtype) -> Iterator[tuple[str, int, Call, Call | None]]:
    for side, channels in IMAGES:
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


def keep_freed_memory() -> None:
    """Freed buffers stay with the process, so that nobody pays for page faults, which come and go."""
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD, at its largest
    libc.mallopt(-1, 2**30)  # M_TRIM_THRESHOLD


def measured(cases: Callable[[torch.dtype], Iterator]) -> Iterator[Row]:
    """Ours and torch's in both dtypes, interleaved: `elements`, and seconds of four calls by `who_dtype`."""
    for in_dtypes in zip(*(cases(dtype) for dtype in DTYPES), strict=True):
        calls, names = [], []
        for dtype, case in zip(DTYPES, in_dtypes, strict=True):
            for who, call in zip(("ours", "torch"), case[2:], strict=True):
                if call is not None:
                    calls.append(lambda c=call: [c() for _ in range(4)])
                    names.append(f"{who}_{str(dtype).removeprefix('torch.')}")
        seconds = fastest_seconds(calls, repeats=9)
        yield {"case": in_dtypes[0][0], "elements": 4 * in_dtypes[0][1]} | dict(zip(names, seconds, strict=True))


def rows() -> Iterator[Row]:
    keep_freed_memory()
    for cases in (quantizers, norms_and_gates):
        yield from measured(cases)


SUITE = Suite(
    "rowwise",
    "Row-wise operations",
    "10^9 elements of the input (of the output, for gates) a second, calls through Python and all; CPU time of the "
    "calling thread. Norms and GEGLU save INT8 values for their gradient, which is paid for in `both passes` here.",
    (
        key("case", "operation"),
        *(
            rate(f"{who} {dtype}", f"{who}_{dtype}", "elements", digits=1)
            for dtype in ("bfloat16", "float32")
            for who in ("ours", "torch")
        ),
    ),
    rows,
)
