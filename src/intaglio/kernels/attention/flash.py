"""Attention by the compiled kernels where they reach, else by torch."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from intaglio.kernels.attention.cpu import is_compiled
from intaglio.kernels.attention.op import attention_operator, gradient_operator


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, *, int8: bool = False) -> Tensor:
    """softmax(scale * q k^T) v, differentiable; the backward pass needs q, k, v, the result and one float32 a query.

    The compiled kernels take bfloat16 on the CPU and heads of at most 256 channels (`is_compiled`). Exponentials and
    sums are float32, operands of every product bfloat16 on AVX-512 BF16, else float32; any number of threads gives the
    same bits. In INT8 they need AVX-512 BF16.
    All else goes to `torch.nn.functional.scaled_dot_product_attention`, bfloat16 in float32 on a CPU without it. For a
    mask call that yourself.

    Args:
        q: (batch, heads, queries, head_dim). Any strides; none is copied if its last axis is contiguous, so pass a
            projection (B, T, H * D) as `x.view(B, T, H, D).transpose(1, 2)`.
        k: (batch, heads, keys, head_dim).
        v: like `k`.
        scale: None for head_dim ** -0.5; not negative.
        int8: runs the two products of the forward pass in INT8 x INT8 -> INT32 (`reference.attend_int8`); the
            gradient stays as it is. What the compiled kernels do not take is computed by the definition, slowly.

    Returns:
        (batch, heads, queries, head_dim), of which `.transpose(1, 2)` is contiguous where the kernels computed.

    Raises:
        ValueError: shapes or dtypes that do not fit together, or a scale that INT8 does not take.
    """
    if q.ndim != 4 or q.shape[:2] != k.shape[:2] or k.shape != v.shape or q.shape[3] != k.shape[3]:
        raise ValueError(
            f"attention: q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}; expected (batch, heads, queries, "
            "head_dim) and twice (batch, heads, keys, head_dim)"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"attention: q {q.dtype}, k {k.dtype}, v {v.dtype}; expected one dtype: cast them")
    chosen = (q.shape[3] or 1) ** -0.5 if scale is None else float(scale)
    fits = 0 <= chosen < math.inf and q.numel() > 0 and k.numel() > 0
    if int8 and not fits:
        raise ValueError(
            f"attention in INT8: scale {chosen}, q {tuple(q.shape)}; expected a scale of 0 or more, no empty axis"
        )
    if not int8 and not (fits and is_compiled(q, k, v)):
        return _by_torch(q, k, v, scale)
    out: Tensor = _Attention.apply(q, k, v, chosen, int8)
    return out


def _by_torch(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """In float32 where bfloat16 would be multiplied number by number: four times slower."""
    dtype = q.dtype
    if dtype == torch.bfloat16 and q.is_cpu and not _has_bfloat16():
        q, k, v = q.float(), k.float(), v.float()
    return F.scaled_dot_product_attention(q, k, v, scale=scale).to(dtype)


@torch.compiler.assume_constant_result
def _has_bfloat16() -> bool:
    """Whether torch's products on this processor take bfloat16: oneDNN's do from AVX-512 on."""
    return _asked_for_bfloat16()


@cache
def _asked_for_bfloat16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) if torch.backends.mkldnn.is_available() else False


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, int8: bool) -> Tensor:
        out, lse = attention_operator(q, k, v, scale, int8)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, out, lse = ctx.saved_tensors
        return *gradient_operator(grads[0], q, k, v, out, lse, ctx.scale), None, None
