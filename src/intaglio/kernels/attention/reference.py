"""What attention and its gradients are, in torch, in the dtype of the operands: slow, with the whole matrix of weights.

    S = scale Q K^T      lse = log sum exp S      P = exp(S - lse)      O = P V
    dV = P^T dO      dP = dO V^T      D = sum over channels of dO * O      dS = P (dP - D)
    dQ = scale dS K      dK = scale dS^T Q

The compiled kernels take Q, K, V, dO in bfloat16 and round O, dQ, dK and dV to it when they are stored; those for
AVX-512 BF16 round P and dS to it before a product. All else is float32.
"""

from __future__ import annotations

from torch import Tensor

from intaglio.kernels.attention.op import attention_operator, fake_forward, fake_gradient, gradient_operator
from intaglio.kernels.row_quantizer.reference import round_rows


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
    codes, scale = round_rows(x.reshape(-1, 1, x.shape[-1]), None)
    return codes.view(x.shape).to(x.dtype), scale.view(x.shape[:-1]).to(x.dtype)


def attend_gradient(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v; `grad` is that of `out`."""
    weights = (scale * (q @ k.mT) - lse[..., None]).exp()
    grad_weights = grad @ v.mT
    grad_scores = weights * (grad_weights - (grad * out).sum(-1, keepdim=True))
    return scale * (grad_scores @ k), scale * (grad_scores.mT @ q), weights.mT @ grad


@attention_operator.reference
def _forward(query: Tensor, key: Tensor, value: Tensor, scale: float, int8: bool) -> tuple[Tensor, Tensor]:
    """In float32."""
    out, lse = fake_forward(query, key, value, scale, int8)
    made = (attend_int8 if int8 else attend)(query.float(), key.float(), value.float(), scale)
    return out.copy_(made[0]), lse.copy_(made[1])


@gradient_operator.reference
def _gradient(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    grads = fake_gradient(grad_out, query, key, value, out, lse, scale)
    grad_out, query, key, value, out = (x.float() for x in (grad_out, query, key, value, out))
    made = attend_gradient(grad_out, query, key, value, out, lse, scale)
    return grads[0].copy_(made[0]), grads[1].copy_(made[1]), grads[2].copy_(made[2])
