"""What attention and its gradients are, in torch, in the dtype of the operands: slow, with the whole matrix of weights.

    S = scale Q K^T      lse = log sum exp S      P = exp(S - lse)      O = P V
    dV = P^T dO      dP = dO V^T      D = sum over channels of dO * O      dS = P (dP - D)
    dQ = scale dS K      dK = scale dS^T Q

The compiled kernels take Q, K, V, dO in bfloat16 and round O, dQ, dK and dV to it when they are stored; those for
AVX-512 BF16 round P and dS to it before a product. All else is float32.
"""

from __future__ import annotations

from torch import Tensor

from intaglio.kernels.row_quantizer.definition import round_rows


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(B, H, Tq, D), (B, H, Tk, D) twice -> out (B, H, Tq, D) and lse (B, H, Tq)."""
    scores = scale * (q @ k.mT)
    lse = scores.logsumexp(-1)
    return (scores - lse[..., None]).exp() @ v, lse


def attend_int8(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """`attend` with both products in integers; out and lse in the dtype of `q`.

        Q ~ q8 s_q, K ~ k8 s_k with one scale a token, V ~ v8 s_v with one a channel and head   (max / 127, to nearest)
        S = scale s_q s_k (q8 k8^T)      p = round(255 exp(S - max S))      O = s_v (p v8) / (255 sum exp(S - max S))

    The compiled kernel takes the largest score so far in place of max S for the keys of a block, and rescales what was
    summed before: codes may then be off by the rounding of a smaller number, never more than half of one of these 255.
    """
    (q8, s_q), (k8, s_k), (v8, s_v) = _codes(q), _codes(k), _codes(v.mT)
    scores = scale * s_q[..., None] * s_k[..., None, :] * (q8 @ k8.mT)
    top = scores.amax(-1, keepdim=True)
    weights = (scores - top).exp()
    total = weights.sum(-1)
    sums = (255 * weights).round() @ v8.mT
    return sums * s_v[..., None, :] / (255 * total[..., None]), top[..., 0] + total.log()


def _codes(x: Tensor) -> tuple[Tensor, Tensor]:
    """The row quantizer's codes and scales over the last axis, in the dtype of `x`."""
    codes, scale = round_rows(x.reshape(-1, 1, x.shape[-1]), None, None)
    return codes.view(x.shape).to(x.dtype), scale.view(x.shape[:-1]).to(x.dtype)


def attend_gradient(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v; `grad` is that of `out`."""
    weights = (scale * (q @ k.mT) - lse[..., None]).exp()
    grad_weights = grad @ v.mT
    grad_scores = weights * (grad_weights - (grad * out).sum(-1, keepdim=True))
    return scale * (grad_scores @ k), scale * (grad_scores.mT @ q), weights.mT @ grad
