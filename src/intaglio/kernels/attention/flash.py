"""Attention by the compiled kernels where they reach, else by torch."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from intaglio.errors import UserError
from intaglio.kernels import binding
from intaglio.kernels.attention.structures import Attention, AttentionGradient, tokens_of
from intaglio.kernels.operators import Operator

MAX_HEAD_DIM = 256


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """softmax(scale * q k^T) v, differentiable; the backward pass needs q, k, v, the result and one float32 a query.

    The compiled kernels take bfloat16 on the CPU, heads of at most 256 channels and AVX-512 BF16 (`is_compiled`).
    Exponentials and sums are float32, operands of every product bfloat16; any number of threads gives the same bits.
    All else goes to `torch.nn.functional.scaled_dot_product_attention`. For a mask call that yourself.

    Args:
        q: (batch, heads, queries, head_dim). Any strides; none is copied if its last axis is contiguous, so pass a
            projection (B, T, H * D) as `x.view(B, T, H, D).transpose(1, 2)`.
        k: (batch, heads, keys, head_dim).
        v: like `k`.
        scale: None for head_dim ** -0.5.

    Returns:
        (batch, heads, queries, head_dim), of which `.transpose(1, 2)` is contiguous where the kernels computed.

    Raises:
        UserError: shapes or dtypes that do not fit together.
    """
    if q.ndim != 4 or q.shape[:2] != k.shape[:2] or k.shape != v.shape or q.shape[3] != k.shape[3]:
        raise UserError(
            f"attention: q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}; expected (batch, heads, queries, "
            "head_dim) and twice (batch, heads, keys, head_dim)"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise UserError(f"attention: q {q.dtype}, k {k.dtype}, v {v.dtype}; expected one dtype: cast them")
    chosen = (q.shape[3] or 1) ** -0.5 if scale is None else float(scale)
    if not is_compiled(q, k, v) or not 0 <= chosen < math.inf:
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    out: Tensor = _Attention.apply(q, k, v, chosen)
    return out


def is_compiled(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the compiled kernels can take these tensors, of shapes that fit together."""
    return (
        q.dtype == k.dtype == v.dtype == torch.bfloat16
        and q.device.type == k.device.type == v.device.type == "cpu"
        and 0 < q.shape[3] <= MAX_HEAD_DIM
        and q.numel() > 0
        and k.numel() > 0
        and _has_kernels()
    )


@torch.compiler.assume_constant_result
def _has_kernels() -> bool:
    return binding.path_in_use() == "avx512bf16"


def _empty_like_tokens(x: Tensor) -> Tensor:
    """Of the shape of (B, H, T, D), its memory in the order (B, T, H, D)."""
    batch, heads, tokens, head_dim = x.shape
    return x.new_empty(batch, tokens, heads, head_dim).transpose(1, 2)


def _rows_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(3) == 1 else x.contiguous()


def _structure(query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, scale: float) -> Attention:
    batch, heads, queries, head_dim = query.shape
    return Attention(
        q=tokens_of(query), k=tokens_of(key), v=tokens_of(value), out=tokens_of(out), lse=lse.data_ptr(), batch=batch,
        heads=heads, queries=queries, keys=key.shape[2], head_dim=head_dim, scale=scale,
        threads=torch.get_num_threads(),
    )  # fmt: skip


def _forward(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    kernels = binding.library()
    assert kernels is not None
    out, lse = _empty_like_tokens(query), query.new_empty(query.shape[:3], dtype=torch.float32)
    query, key, value = _rows_contiguous(query), _rows_contiguous(key), _rows_contiguous(value)
    kernels.intaglio_attention(ctypes.byref(_structure(query, key, value, out, lse, scale)))
    return out, lse


def _gradient(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    kernels = binding.library()
    assert kernels is not None
    grads = _empty_like_tokens(query), _empty_like_tokens(key), _empty_like_tokens(value)
    grad_out, query, key, value, out = (_rows_contiguous(x) for x in (grad_out, query, key, value, out))
    lse = lse.contiguous()
    forward = _structure(query, key, value, out, lse, scale)
    call = AttentionGradient(ctypes.pointer(forward), tokens_of(grad_out), *(tokens_of(x) for x in grads))
    kernels.intaglio_attention_gradient(ctypes.byref(call))
    return grads


def _fake_forward(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return _empty_like_tokens(query), query.new_empty(query.shape[:3], dtype=torch.float32)


def _fake_gradient(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_like_tokens(query), _empty_like_tokens(key), _empty_like_tokens(value)


attention_operator = Operator("intaglio::attention", _forward, _fake_forward)
gradient_operator = Operator("intaglio::attention_gradient", _gradient, _fake_gradient)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        out, lse = attention_operator(q, k, v, scale)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        return *gradient_operator(grads[0], q, k, v, out, lse, ctx.scale), None
