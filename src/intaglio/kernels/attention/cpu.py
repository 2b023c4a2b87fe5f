"""By the compiled kernels, in bfloat16."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from intaglio.kernels import binding
from intaglio.kernels.attention.op import attention_operator, fake_forward, fake_gradient, gradient_operator
from intaglio.kernels.structures import structure

Attention, AttentionGradient, Tokens = structure("Attention"), structure("AttentionGradient"), structure("Tokens")
MAX_HEAD_DIM = 256


def is_compiled(q: Tensor, k: Tensor, v: Tensor, int8: bool = False) -> bool:
    """Whether the compiled kernels can take these tensors, of shapes that fit together."""
    on_cpu = q.device.type == k.device.type == v.device.type == "cpu"
    return on_cpu and _fits(q, k, v) and _reaches("avx512bf16" if int8 else "avx2")


def _fits(q: Tensor, k: Tensor, v: Tensor) -> bool:
    return (
        q.dtype == k.dtype == v.dtype == torch.bfloat16
        and 0 < q.shape[3] <= MAX_HEAD_DIM
        and q.numel() > 0
        and k.numel() > 0
    )


@torch.compiler.assume_constant_result
def _reaches(level: str) -> bool:
    return binding.reaches(level)


def _tokens(x: Tensor) -> Any:
    """Of a tensor (batch, heads, tokens, head_dim) whose last axis is contiguous. The caller keeps it alive."""
    return Tokens(x.data_ptr(), *x.stride()[:3])


def _rows_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(3) == 1 else x.contiguous()


def _structure(query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, scale: float) -> Any:
    batch, heads, queries, head_dim = query.shape
    return Attention(
        q=_tokens(query), k=_tokens(key), v=_tokens(value), out=_tokens(out), lse=lse.data_ptr(), batch=batch,
        heads=heads, queries=queries, keys=key.shape[2], head_dim=head_dim, scale=scale,
        threads=torch.get_num_threads(),
    )  # fmt: skip


def _forward(query: Tensor, key: Tensor, value: Tensor, scale: float, int8: bool) -> tuple[Tensor, Tensor]:
    out, lse = fake_forward(query, key, value, scale, int8)
    query, key, value = _rows_contiguous(query), _rows_contiguous(key), _rows_contiguous(value)
    function = "intaglio_attention_int8" if int8 else "intaglio_attention"
    binding.call(function, _structure(query, key, value, out, lse, scale))
    return out, lse


def _gradient(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    grads = fake_gradient(grad_out, query, key, value, out, lse, scale)
    grad_out, query, key, value, out = (_rows_contiguous(x) for x in (grad_out, query, key, value, out))
    lse = lse.contiguous()
    forward = _structure(query, key, value, out, lse, scale)
    call = AttentionGradient(ctypes.addressof(forward), _tokens(grad_out), *(_tokens(x) for x in grads))
    binding.call("intaglio_attention_gradient", call)
    return grads


def _takes_float(query: Tensor, key: Tensor, value: Tensor, scale: float, int8: bool) -> bool:
    return not int8 and _fits(query, key, value)


_CONDITION = f"bfloat16, heads of at most {MAX_HEAD_DIM} channels"
attention_operator.native(_forward, "avx2", takes=_takes_float, condition=f"{_CONDITION}; not in INT8")
attention_operator.native(
    _forward, "avx512bf16", takes=lambda query, key, value, scale, int8: _fits(query, key, value), condition=_CONDITION
)
gradient_operator.native(
    _gradient, "avx512bf16", "avx2", takes=lambda grad_out, q, k, v, *_: _fits(q, k, v), condition=_CONDITION
)
