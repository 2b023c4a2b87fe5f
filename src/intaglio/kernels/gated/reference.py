"""What the activations are, in torch, and their gradients: slow, and what the fast path is compared with.

    gelu(g) = g Phi(g)      gelu_tanh(g) = g sigmoid(2 sqrt(2 / pi) (g + 0.044715 g^3))      silu(g) = g sigmoid(g)

Phi is the cumulative normal distribution. Gated: x = [a, g] side by side, y = a f(g).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from intaglio.kernels.dtypes import compute_dtype
from intaglio.kernels.gated.op import gated_gradient, gated_operator
from intaglio.kernels.row_quantizer import codes_of, value_of


def value_and_slope(g: Tensor, function: str) -> tuple[Tensor, Tensor]:
    """f(g) and f'(g)."""
    if function == "gelu":
        cumulative = 0.5 * torch.erfc(g * -math.sqrt(0.5))
        return g * cumulative, cumulative + g * torch.exp(-0.5 * g * g) / math.sqrt(2 * math.pi)
    if function == "silu":
        t, t_slope = g, torch.ones_like(g)
    else:
        t = 2 * math.sqrt(2 / math.pi) * (g + 0.044715 * g**3)
        t_slope = 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * g * g)
    s = torch.sigmoid(t)
    return g * s, s + g * s * (1 - s) * t_slope


def activate(x: Tensor, function: str, gated: bool) -> Tensor:
    """`y` (M, C) of `x` (M, C), gated (M, 2 C), in float32 or float64."""
    x = x.to(compute_dtype(x))
    if not gated:
        return value_and_slope(x, function)[0]
    a, g = x.chunk(2, dim=1)
    return a * value_and_slope(g, function)[0]


def gradient(grad: Tensor, x: Tensor, function: str, gated: bool) -> Tensor:
    """Of x, in its dtype; `grad` (M, C)."""
    grad = grad.to(x.dtype)
    if not gated:
        return grad * value_and_slope(x, function)[1]
    a, g = x.chunk(2, dim=1)
    value, slope = value_and_slope(g, function)
    return torch.cat([grad * value, grad * a * slope], dim=1)


@gated_operator.reference
def forward(x: Tensor, function: str, gated: bool, with_codes: bool) -> tuple[Tensor, Tensor, Tensor]:
    """y, and the codes of x with a scale for each half of a row: empty if not wanted."""
    rows, columns = x.shape[0], x.shape[1] // (1 + gated)
    codes, scale = codes_of(x.view(rows * (1 + gated), columns), with_codes)
    return activate(x, function, gated).to(x.dtype), codes.view(x.shape) if with_codes else codes, scale


@gated_gradient.reference
def backward(grad: Tensor, x: Tensor, scale: Tensor | None, function: str, gated: bool) -> Tensor:
    """`x` (M, C), gated (M, 2 C), whose codes have a scale for each half of a row."""
    rows, columns = grad.shape
    value = value_of(x.view(rows * (1 + gated), columns), scale, compute_dtype(grad)).view(x.shape)
    return gradient(grad, value, function, gated).to(grad.dtype)
