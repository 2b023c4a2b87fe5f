"""What group norm is, in torch, and its gradient: slow, and what the fast path is compared with.

Rows are the pixels of one sample, groups are of neighbouring channels:

    z = (x - mean) rstd w + b      y = z, or z sigmoid(z)      over all rows and channels of a sample's group
    dz = dy y'(z)                  dx = rstd (w dz - mean(w dz) - xhat mean(w dz xhat))      xhat = (x - mean) rstd

In float64 where the input is, else in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.kernels.dtypes import compute_dtype
from intaglio.kernels.group_norm.op import group_norm_gradient, group_norm_operator
from intaglio.kernels.row_quantizer import codes_of, value_of


def statistics(x_BRC: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """mean (B, G), 1 / sqrt(variance + eps) (B, G)."""
    x = _grouped(x_BRC.to(compute_dtype(x_BRC)), groups)
    mean = x.mean((1, 3))
    return mean, ((x - mean[:, None, :, None]).square().mean((1, 3)) + eps).rsqrt()


def normalize(
    x_BRC: Tensor, mean_BG: Tensor, rstd_BG: Tensor, weight: Tensor | None, bias: Tensor | None, silu: bool
) -> Tensor:
    """`y` (B, R, C) in the dtype of `mean`."""
    groups = mean_BG.shape[1]
    x = _grouped(x_BRC.to(mean_BG.dtype), groups)
    z = ((x - mean_BG[:, None, :, None]) * rstd_BG[:, None, :, None]).flatten(2)
    if weight is not None:
        z = z * weight.to(z.dtype)
    if bias is not None:
        z = z + bias.to(z.dtype)
    return z * torch.sigmoid(z) if silu else z


def gradient(
    grad_BRC: Tensor,
    x_BRC: Tensor,
    mean_BG: Tensor,
    rstd_BG: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of x (B, R, C), weight (C,) and bias (C,), in the dtype of `mean`."""
    groups = mean_BG.shape[1]
    grad, rstd = grad_BRC.to(mean_BG.dtype), rstd_BG[:, None, :, None]
    xhat = normalize(x_BRC, mean_BG, rstd_BG, None, None, False)
    if silu:
        z = xhat if weight is None else xhat * weight.to(xhat.dtype)
        z = z if bias is None else z + bias.to(z.dtype)
        s = torch.sigmoid(z)
        grad = grad * s * (1 + z * (1 - s))
    grad_weight, grad_bias = (grad * xhat).sum((0, 1)), grad.sum((0, 1))
    if weight is not None:
        grad = grad * weight.to(grad.dtype)
    w, xhat = _grouped(grad, groups), _grouped(xhat, groups)
    level, tilt = w.mean((1, 3), keepdim=True), (w * xhat).mean((1, 3), keepdim=True)
    return (rstd * (w - level - xhat * tilt)).flatten(2), grad_weight, grad_bias


def _grouped(x_BRC: Tensor, groups: int) -> Tensor:
    samples, rows, channels = x_BRC.shape
    return x_BRC.reshape(samples, rows, groups, channels // groups)


@group_norm_operator.reference
def forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float, silu: bool, with_codes: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, mean, rstd, and the codes and scales of x by pixel: empty if not wanted."""
    mean, rstd = statistics(x, groups, eps)
    codes, scale = codes_of(x.flatten(0, 1), with_codes)
    y = normalize(x, mean, rstd, weight, bias, silu).to(x.dtype)
    return y, mean, rstd, codes.view(x.shape) if with_codes else codes, scale


@group_norm_gradient.reference
def backward(
    grad: Tensor,
    x: Tensor,
    scale: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    silu: bool,
    of_affine: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of x, weight and bias; the latter two are empty if not wanted."""
    columns = x.shape[2] if of_affine else 0
    x = value_of(x.flatten(0, 1), scale, mean.dtype).view(x.shape)
    grad_x, grad_weight, grad_bias = gradient(grad, x, mean, rstd, weight, bias, silu)
    return grad_x.to(grad.dtype), grad_weight[:columns].clone(), grad_bias[:columns].clone()
