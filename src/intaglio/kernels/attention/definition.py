"""What attention and its gradients are, in torch, in the dtype of the operands: slow, with the whole matrix of weights.

    S = scale Q K^T      lse = log sum exp S      P = exp(S - lse)      O = P V
    dV = P^T dO      dP = dO V^T      D = sum over channels of dO * O      dS = P (dP - D)
    dQ = scale dS K      dK = scale dS^T Q

The compiled kernels take Q, K, V, dO in bfloat16, round P and dS to it before a product, O, dQ, dK and dV when
they are stored; sums and exponentials are float32.
"""

from __future__ import annotations

from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(B, H, Tq, D), (B, H, Tk, D) twice -> out (B, H, Tq, D) and lse (B, H, Tq)."""
    scores = scale * (q @ k.mT)
    lse = scores.logsumexp(-1)
    return (scores - lse[..., None]).exp() @ v, lse


def attend_gradient(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v; `grad` is that of `out`."""
    weights = (scale * (q @ k.mT) - lse[..., None]).exp()
    grad_weights = grad @ v.mT
    grad_scores = weights * (grad_weights - (grad * out).sum(-1, keepdim=True))
    return scale * (grad_scores @ k), scale * (grad_scores.mT @ q), weights.mT @ grad
