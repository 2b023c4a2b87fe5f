"""What layer norm is, in torch, and its gradient: slow, and what the fast path is compared with.

    xhat = (x - mean) rstd      y = xhat w + b      dx = rstd (w dy - mean(w dy) - xhat mean(w dy xhat))

Means are over the columns of a row. In float64 where the input is, else in float32.
"""

from __future__ import annotations

from torch import Tensor

from intaglio.kernels.dtypes import compute_dtype
from intaglio.kernels.layer_norm.op import layer_norm_gradient, layer_norm_operator
from intaglio.kernels.row_quantizer import codes_of, value_of


def statistics(x_MC: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """mean (M,), 1 / sqrt(variance + eps) (M,)."""
    x = x_MC.to(compute_dtype(x_MC))
    mean = x.mean(1)
    return mean, ((x - mean[:, None]).square().mean(1) + eps).rsqrt()


def normalize(x_MC: Tensor, mean_M: Tensor, rstd_M: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """`y` (M, C) in the dtype of `mean`."""
    y = (x_MC.to(mean_M.dtype) - mean_M[:, None]) * rstd_M[:, None]
    if weight is not None:
        y = y * weight.to(y.dtype)
    return y if bias is None else y + bias.to(y.dtype)


def gradient(grad_MC: Tensor, x_MC: Tensor, mean_M: Tensor, rstd_M: Tensor, weight: Tensor | None) -> Tensor:
    """Of x (M, C), in the dtype of `mean`."""
    xhat, grad = normalize(x_MC, mean_M, rstd_M, None, None), grad_MC.to(mean_M.dtype)
    if weight is not None:
        grad = grad * weight.to(grad.dtype)
    level, tilt = grad.mean(1, keepdim=True), (grad * xhat).mean(1, keepdim=True)
    return rstd_M[:, None] * (grad - level - xhat * tilt)


@layer_norm_operator.reference
def forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, with_codes: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, mean, rstd, and the codes and scales of x: empty if not wanted."""
    mean, rstd = statistics(x, eps)
    return normalize(x, mean, rstd, weight, bias).to(x.dtype), mean, rstd, *codes_of(x, with_codes)


@layer_norm_gradient.reference
def backward(
    grad: Tensor, x: Tensor, scale: Tensor | None, mean: Tensor, rstd: Tensor, weight: Tensor | None
) -> Tensor:
    return gradient(grad, value_of(x, scale, mean.dtype), mean, rstd, weight).to(grad.dtype)
