"""The product by torch's INT8 product of matrices, where it serves (`int8_matmul/int_mm.py`).

A convolution is a matrix product of unfolded pixels: bytes, so unfolding costs a quarter of what it does in float. The
gradient is a convolution too, of the gradient's pixels spread by the stride, under the taps in reverse: its sums stay
where they are, and nothing is folded back.

The weight is unpacked in blocks that stay in the cache, even channels before odd ones.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from intaglio.kernels.int8_matmul import int_mm
from intaglio.kernels.weight_product.halves import has_halves, joined, split
from intaglio.kernels.weight_product.reference import under_tap
from intaglio.kernels.weight_product.weight import IntegerWeight
from intaglio.kernels.weight_product.window import Window

_BLOCK = 2**20
"""Weights that are unpacked at a time: 1 MB."""


def output_by_int_mm(x_BHWI: Tensor, weight: IntegerWeight, window: Window) -> Tensor:
    """`output_sums`."""
    height, width = window.output_size((x_BHWI.shape[1], x_BHWI.shape[2]))
    top, left = window.padding
    x = F.pad(split(x_BHWI) if has_halves(weight) else x_BHWI, (0, 0, left, left, top, top))
    rows = _rows([under_tap(x, tap, window, (height, width)) for tap in range(window.taps)])
    parts = [int_mm.product(rows, w.T) for w in _output_blocks(weight)]
    return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).view(len(x), height, width, -1)


def grad_input_by_int_mm(grad_BHWO: Tensor, weight: IntegerWeight, window: Window, size: tuple[int, int]) -> Tensor:
    """`grad_input_sums`."""
    out, taps, _ = weight.shape
    near = Window(window.kernel, dilation=window.dilation)
    grad, total = _spread(grad_BHWO, window, size), None
    for some, channels, w in _grad_blocks(weight):
        pixels = [under_tap(grad, taps - 1 - tap, near, size) for tap in range(some.start, some.stop)]
        rows = _rows(pixels if channels == slice(0, out) else [p[..., channels] for p in pixels])
        part = int_mm.product(rows, w)
        total = part if total is None else total.add_(part)
    assert total is not None
    back = total.view(len(grad), *size, -1)
    return joined(back) if has_halves(weight) else back


def _rows(taps: list[Tensor]) -> Tensor:
    """Pixels (B, H, W, C) under each tap -> (B H W, T C)."""
    return (taps[0] if len(taps) == 1 else torch.cat(taps, dim=3)).flatten(0, 2)


def _spread(grad: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """The gradient with zeros between its pixels and around them: under tap `t` of an input pixel, in reverse order,
    lies the gradient that it has by that tap."""
    if window == Window():
        return grad
    pads = [0, 0]
    for axis in (1, 0):  # as F.pad counts, from the last
        stride, reach = window.stride[axis], window.dilation[axis] * (window.kernel[axis] - 1)
        length = (grad.shape[1 + axis] - 1) * stride + 1
        before = reach - window.padding[axis]
        pads += [before, size[axis] + reach - length - before]
        if stride > 1:
            shape = list(grad.shape)
            shape[1 + axis] = length
            wide = grad.new_zeros(shape)
            wide[(slice(None),) * (1 + axis) + (slice(None, None, stride),)] = grad
            grad = wide
    return F.pad(grad, pads)


def _output_blocks(weight: IntegerWeight) -> Iterator[Tensor]:
    """int8 (o, T I), for some output channels after others. A block is gone when the next one comes."""
    out, taps, channels = weight.shape
    if not has_halves(weight):
        yield weight.codes()
        return
    rows = max(1, _BLOCK // (taps * channels))
    scratch = torch.empty(min(rows, out), taps, channels, dtype=torch.int8)
    for packed in _packed(weight).split(rows):
        yield _unpacked(packed, scratch[: len(packed)]).flatten(1)


def _grad_blocks(weight: IntegerWeight) -> Iterator[tuple[slice, slice, Tensor]]:
    """Taps, output channels and their int8 (t o, I). A block is gone when the next one comes."""
    out, taps, channels = weight.shape
    whole = has_halves(weight)
    codes = _packed(weight) if whole else weight.codes().view(weight.shape)
    some = min(taps, max(1, _BLOCK // (out * channels)))
    rows = min(out, max(1, _BLOCK // channels))
    scratch = torch.empty(some * rows * channels, dtype=torch.int8) if whole else None
    for tap in range(0, taps, some):
        for start in range(0, out, rows):
            part = slice(tap, min(tap + some, taps)), slice(start, min(start + rows, out))
            block = codes[part[1], part[0]].transpose(0, 1)
            if scratch is not None:
                shape = (*block.shape[:2], channels)
                block = _unpacked(block, scratch[: shape[0] * shape[1] * channels].view(shape))
            yield *part, block.flatten(0, 1)


def _packed(weight: IntegerWeight) -> Tensor:
    out, taps, channels = weight.shape
    return weight.qdata.view(torch.int8).view(out, taps, channels // 2)


def _unpacked(packed: Tensor, codes: Tensor) -> Tensor:
    """Bytes (..., C / 2) into `codes` (..., C)."""
    half = packed.shape[-1]
    low, high = codes[..., :half], codes[..., half:]
    torch.bitwise_right_shift(packed, 4, out=high)
    torch.bitwise_left_shift(packed, 4, out=low)
    low.bitwise_right_shift_(4)
    return codes
