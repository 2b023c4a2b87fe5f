"""The two operators of attention; `flash.py` has the function that autograd sees."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from intaglio.kernels.cost import Arguments, Gemm, Vector
from intaglio.kernels.registry import Op


def empty_like_tokens(x: Tensor) -> Tensor:
    """Of the shape of (B, H, T, D), its memory in the order (B, T, H, D)."""
    batch, heads, tokens, head_dim = x.shape
    return x.new_empty(batch, tokens, heads, head_dim).transpose(1, 2)


def fake_forward(query: Tensor, key: Tensor, value: Tensor, scale: float, int8: bool) -> tuple[Tensor, Tensor]:
    return empty_like_tokens(query), query.new_empty(query.shape[:3], dtype=torch.float32)


def fake_gradient(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return empty_like_tokens(query), empty_like_tokens(key), empty_like_tokens(value)


def cost(args: Arguments, out: tuple[Tensor, ...]) -> list[Gemm | Vector]:
    """One fused softmax(Q K^T) V, of (batch, heads, tokens, features). The kernel keeps the scores to itself."""
    q, k, v = args["query"], args["key"], args["value"]
    B, (T, D), S = q.shape[:-2].numel(), q.shape[-2:], k.shape[-2]
    common: dict[str, Any] = {"batch": B, "operation": "attention_product", "pass_name": "output"}
    return [
        Gemm(q, k, None, T, S, D, roles=("query", "key"), part=".scores", **common),
        Vector("softmax", B * T * S),
        Gemm(None, v, out[0], T, v.shape[-1], S, roles=("probabilities", "value"), part=".values", **common),
    ]


def gradient_cost(args: Arguments, out: tuple[Tensor | None, ...]) -> list[Gemm | Vector]:
    """The gradients of Q, K and V that something needs. The kernel makes P again; that product is its own choice, and
    not counted."""
    q, k, v = args["query"], args["key"], args["value"]
    grad = args["grad_out"] if "grad_out" in args else args["grad_out_"]
    B, (T, D), S, E = q.shape[:-2].numel(), q.shape[-2:], k.shape[-2], v.shape[-1]
    common: dict[str, Any] = {"batch": B, "operation": "attention_product", "pass_name": "grad_input"}
    found: list[Gemm | Vector] = []
    if v.requires_grad:
        found.append(
            Gemm(None, grad, None, S, E, T, roles=("probabilities", "grad_output"), part=".values.value", **common)
        )
    if q.requires_grad or k.requires_grad:
        found += [
            Gemm(grad, v, None, T, S, E, roles=("grad_output", "value"), part=".values.probabilities", **common),
            Vector("softmax", B * T * S),
        ]
    if q.requires_grad:
        found.append(Gemm(None, k, None, T, D, S, roles=("grad_scores", "key"), part=".scores.query", **common))
    if k.requires_grad:
        found.append(Gemm(None, q, None, S, D, T, roles=("grad_scores", "query"), part=".scores.key", **common))
    return found


attention_operator = Op("attention", fake_forward, cost=cost)
gradient_operator = Op("attention_gradient", fake_gradient, cost=gradient_cost)
