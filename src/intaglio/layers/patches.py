"""The rows of a layer's matrix product: tokens of a Linear, unfolded patches of a Conv2d; and back."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from intaglio.layers.geometry import Conv2dGeometry, Geometry
from intaglio.quantizers.window import Window


def channels_last_rows(x: Tensor, geometry: Geometry) -> Tensor:
    """(B, ..., C) of a Linear or (B, C, H, W) of a Conv2d -> (rows, C)."""
    return (x.permute(0, 2, 3, 1) if isinstance(geometry, Conv2dGeometry) else x).reshape(-1, _channels(x, geometry))


def from_channels_last_rows(rows: Tensor, shape: torch.Size, geometry: Geometry) -> Tensor:
    """The inverse, to `shape`; a convolution's comes back as a channels-last view."""
    if not isinstance(geometry, Conv2dGeometry):
        return rows.view(shape)
    batch, channels, height, width = shape
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)


def output_shape(input_shape: torch.Size, geometry: Geometry) -> torch.Size:
    if not isinstance(geometry, Conv2dGeometry):
        return torch.Size([*input_shape[:-1], geometry.out_channels])
    size = geometry.window.output_size((input_shape[2], input_shape[3]))
    return torch.Size([input_shape[0], geometry.out_channels, *size])


def unfold(rows: Tensor, input_shape: torch.Size, geometry: Geometry) -> Tensor:
    """(rows, I) of the input, any dtype -> (M, K) as the product takes them: taps before channels."""
    if not isinstance(geometry, Conv2dGeometry) or is_pointwise(geometry):
        return rows
    batch, channels, height, width = input_shape
    top, left = geometry.padding
    padded = F.pad(rows.view(batch, height, width, channels), (0, 0, left, left, top, top))
    taps = geometry.window.under_taps(geometry.window.output_size((height, width)))
    return torch.cat([padded[:, i, j] for i, j in taps], dim=3).flatten(0, 2)


def fold(patches: Tensor, input_shape: torch.Size, geometry: Geometry) -> Tensor:
    """The transpose of `unfold`: (M, K) -> (rows, I), sums in the dtype of `patches`."""
    if not isinstance(geometry, Conv2dGeometry) or is_pointwise(geometry):
        return patches
    batch, channels, height, width = input_shape
    top, left = geometry.padding
    padded = patches.new_zeros(batch, height + 2 * top, width + 2 * left, channels)
    size = geometry.window.output_size((height, width))
    pieces = patches.view(batch, *size, -1, channels)
    for tap, (i, j) in enumerate(geometry.window.under_taps(size)):
        padded[:, i, j] += pieces[:, :, :, tap]
    return padded[:, top : top + height, left : left + width].reshape(-1, channels)


def pixels(rows: Tensor, shape: torch.Size, geometry: Geometry) -> Tensor:
    """(rows, C) of a tensor of `shape` -> (B, H, W, C), or (1, 1, rows, C) of a Linear: what `weight_product` takes."""
    if not isinstance(geometry, Conv2dGeometry):
        return rows.view(1, 1, *rows.shape)
    return rows.view(shape[0], shape[2], shape[3], rows.shape[1])


def to_pixels(x: Tensor, geometry: Geometry) -> Tensor:
    """(B, ..., C) or (B, C, H, W) as (B, H, W, C), or (1, 1, tokens, C) of a Linear."""
    if isinstance(geometry, Conv2dGeometry):
        return x.permute(0, 2, 3, 1)
    return x.reshape(1, 1, -1, x.shape[-1])


def from_pixels(pixels: Tensor, shape: torch.Size, channels: int, geometry: Geometry) -> Tensor:
    """The inverse: to `shape` with `channels`; a convolution's comes back as a channels-last view."""
    if isinstance(geometry, Conv2dGeometry):
        return pixels.permute(0, 3, 1, 2)
    return pixels.view(*shape[:-1], channels)


def pixels_shape(shape: torch.Size, geometry: Geometry) -> tuple[int, int, int, int]:
    """What `to_pixels` makes of `shape`."""
    if isinstance(geometry, Conv2dGeometry):
        return shape[0], shape[2], shape[3], shape[1]
    return 1, 1, math.prod(shape[:-1]), shape[-1]


def stored_dtype(dtype: torch.dtype) -> torch.dtype:
    """What the kernels read and store for values of `dtype`."""
    return dtype if dtype in (torch.float32, torch.bfloat16) else torch.float32


def grad_size(input_shape: torch.Size, geometry: Geometry) -> tuple[int, int]:
    """Height and width of the gradient of an input; a Linear's is 1 high."""
    if isinstance(geometry, Conv2dGeometry):
        return input_shape[2], input_shape[3]
    return 1, math.prod(input_shape[:-1])


def window(geometry: Geometry) -> Window:
    return geometry.window if isinstance(geometry, Conv2dGeometry) else Window()


def is_pointwise(geometry: Conv2dGeometry) -> bool:
    """Whether the rows of the product are the pixels of the input."""
    return geometry.kernel_size == (1, 1) and geometry.stride == (1, 1) and geometry.padding == (0, 0)


def _channels(x: Tensor, geometry: Geometry) -> int:
    return x.shape[1] if isinstance(geometry, Conv2dGeometry) else x.shape[-1]
