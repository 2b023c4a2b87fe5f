"""What differs between a Linear and a Conv2d: the product and its gradient, and where the channels lie.

Everything else (scales, reductions, adapters) is written once, over these.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intaglio.errors import UserError
from intaglio.quantizers.window import Window


@dataclass(frozen=True)
class LinearGeometry:
    """`x` (B, ..., I), `w` (O, I) -> (B, ..., O)."""

    in_channels: int
    out_channels: int

    def output(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def grad_input(self, grad: Tensor, weight: Tensor, input_shape: torch.Size) -> Tensor:
        return grad @ weight

    def along_channels(self, vector: Tensor, x: Tensor) -> Tensor:
        """(C,) or (B, C) -> a view that multiplies the channels of `x` (B, ..., C)."""
        if vector.ndim == 1:
            return vector
        return vector.view(vector.shape[0], *([1] * (x.ndim - 2)), vector.shape[1])

    def per_sample_sum(self, x: Tensor) -> Tensor:
        """(B, ..., C) -> (B, C), at least float32."""
        wide = x if x.dtype == torch.float64 else x.float()
        return wide.flatten(1, -2).sum(1) if x.ndim > 2 else wide


@dataclass(frozen=True)
class Conv2dGeometry:
    """`x` (B, I, H, W), `w` (O, I / groups, kh, kw) -> (B, O, H', W')."""

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @property
    def window(self) -> Window:
        return Window(self.kernel_size, self.stride, self.padding, self.dilation)

    def output(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def grad_input(self, grad: Tensor, weight: Tensor, input_shape: torch.Size) -> Tensor:
        return torch.ops.aten.convolution_backward(
            grad,
            grad.new_empty(1).expand(input_shape),  # only its shape is read
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0, 0],
            self.groups,
            (True, False, False),
        )[0]

    def along_channels(self, vector: Tensor, x: Tensor) -> Tensor:
        """(C,) or (B, C) -> a view that multiplies the channels of `x` (B, C, H, W)."""
        return vector.view(-1, vector.shape[-1], 1, 1)

    def per_sample_sum(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C), at least float32."""
        return (x if x.dtype == torch.float64 else x.float()).sum((2, 3))


Geometry = LinearGeometry | Conv2dGeometry


def geometry_of(layer: nn.Linear | nn.Conv2d, name: str = "") -> Geometry:
    """The geometry of a layer.

    Raises:
        UserError: a convolution that pads with anything but zeros.
    """
    if isinstance(layer, nn.Linear):
        return LinearGeometry(layer.in_features, layer.out_features)
    if layer.padding_mode != "zeros":
        raise UserError(
            f"{name or 'a convolution'} pads with padding_mode={layer.padding_mode!r}; only 'zeros' is supported. "
            "Leave it out: pass its name in keep_float and choose targets without it"
        )
    kernel, dilation = _pair(layer.kernel_size), _pair(layer.dilation)
    return Conv2dGeometry(
        layer.in_channels,
        layer.out_channels,
        kernel,
        _pair(layer.stride),
        _resolve_padding(layer.padding, kernel, dilation),
        dilation,
        layer.groups,
    )


def _resolve_padding(
    padding: str | tuple[int, ...], kernel: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int]:
    if not isinstance(padding, str):
        return _pair(padding)
    if padding == "valid":
        return (0, 0)
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if any(r % 2 for r in reach):
        raise UserError(f"padding='same' with an even kernel {kernel} pads unevenly, which is not supported")
    return (reach[0] // 2, reach[1] // 2)


def _pair(value: tuple[int, ...]) -> tuple[int, int]:
    first, second = value
    return (first, second)
