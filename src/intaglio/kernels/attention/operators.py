"""The two operators of attention: by the compiled kernels, or by the definition in float32."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from intaglio.kernels import binding
from intaglio.kernels.attention.definition import attend, attend_gradient, attend_int8
from intaglio.kernels.attention.structures import Attention, AttentionGradient, tokens_of
from intaglio.kernels.operators import Operator

MAX_HEAD_DIM = 256


def is_compiled(q: Tensor, k: Tensor, v: Tensor, int8: bool = False) -> bool:
    """Whether the compiled kernels can take these tensors, of shapes that fit together."""
    return (
        q.dtype == k.dtype == v.dtype == torch.bfloat16
        and q.device.type == k.device.type == v.device.type == "cpu"
        and 0 < q.shape[3] <= MAX_HEAD_DIM
        and q.numel() > 0
        and k.numel() > 0
        and _reaches("avx512bf16" if int8 else "avx2")
    )


@torch.compiler.assume_constant_result
def _reaches(level: str) -> bool:
    return binding.reaches(level)


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


def _forward(query: Tensor, key: Tensor, value: Tensor, scale: float, int8: bool) -> tuple[Tensor, Tensor]:
    out, lse = _fake_forward(query, key, value, scale, int8)
    if is_compiled(query, key, value, int8):
        kernels = binding.library()
        assert kernels is not None
        query, key, value = _rows_contiguous(query), _rows_contiguous(key), _rows_contiguous(value)
        function = kernels.intaglio_attention_int8 if int8 else kernels.intaglio_attention
        function(ctypes.byref(_structure(query, key, value, out, lse, scale)))
        return out, lse
    made = (attend_int8 if int8 else attend)(query.float(), key.float(), value.float(), scale)
    return out.copy_(made[0]), lse.copy_(made[1])


def _gradient(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    grads = _fake_gradient(grad_out, query, key, value, out, lse, scale)
    if is_compiled(query, key, value):
        kernels = binding.library()
        assert kernels is not None
        grad_out, query, key, value, out = (_rows_contiguous(x) for x in (grad_out, query, key, value, out))
        lse = lse.contiguous()
        forward = _structure(query, key, value, out, lse, scale)
        call = AttentionGradient(ctypes.pointer(forward), tokens_of(grad_out), *(tokens_of(x) for x in grads))
        kernels.intaglio_attention_gradient(ctypes.byref(call))
        return grads
    grad_out, query, key, value, out = (x.float() for x in (grad_out, query, key, value, out))
    made = attend_gradient(grad_out, query, key, value, out, lse, scale)
    return grads[0].copy_(made[0]), grads[1].copy_(made[1]), grads[2].copy_(made[2])


def _fake_forward(query: Tensor, key: Tensor, value: Tensor, scale: float, int8: bool) -> tuple[Tensor, Tensor]:
    return _empty_like_tokens(query), query.new_empty(query.shape[:3], dtype=torch.float32)


def _fake_gradient(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_like_tokens(query), _empty_like_tokens(key), _empty_like_tokens(value)


attention_operator = Operator("intaglio::attention", _forward, _fake_forward)
gradient_operator = Operator("intaglio::attention_gradient", _gradient, _fake_gradient)
