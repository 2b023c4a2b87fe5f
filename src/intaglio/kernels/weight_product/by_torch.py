"""The product where the compiled kernels are not there: by torch's product of bytes where that serves
(`by_int_mm.py`), else by float32 products that are exact.

Codes are integers of at most 8 bits, so a float32 holds every partial sum as long as few enough are added, in whatever
order: 1,024 products of INT8 codes, 16,384 where the weight's codes have 4 bits. What is longer is cut, and the pieces
are added in int32. Plain sums only: no Winograd, which multiplies by fractions.

The weight is unpacked in blocks of output channels that stay in the cache: of a whole one the system would hand out
fresh pages every time, which costs more than the product of a small image.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from intaglio.kernels.int8_matmul import int_mm
from intaglio.kernels.weight_product.by_int_mm import grad_input_by_int_mm, output_by_int_mm
from intaglio.kernels.weight_product.halves import has_halves, joined, split
from intaglio.kernels.weight_product.op import op, window_of
from intaglio.kernels.weight_product.reference import scaled, under_tap, weight_in
from intaglio.kernels.weight_product.weight import IntegerWeight
from intaglio.kernels.weight_product.window import Window
from intaglio.quantizers.formats import Format

_LARGEST, _LARGEST_HALF = 128, 8
"""|code| of an INT8, and of 4 bits of a byte."""
_BLOCK = 2**21
"""Weights that are unpacked at a time: 8 MB."""
_SMALL_IMAGE = 256
"""Output pixels, of all samples, below which matrices are faster than torch's convolution."""


def exact_steps(largest_code: int) -> int:
    """How many products of an INT8 code and one of at most `largest_code` a float32 adds exactly."""
    return 2**24 // (_LARGEST * largest_code)


def is_plain(format: Format) -> bool:
    """Whether what is stored is what is multiplied.

    Groups, zero points and codebooks become codes of a channel at every call: compiled kernels do that in passing,
    torch alone takes longer for it than for a product of floats.
    """
    return format.symmetric and format.levels is None and format.group_size is None


def is_exact_by_int_mm(format: Format) -> bool:
    """Whether torch's product of bytes adds exactly what weights of this format are multiplied as, on this machine.

    The same whenever it is asked, since no clock is: a choice that is saved may rest on it.
    """
    return int_mm.is_exact(_LARGEST_HALF if is_plain(format) and format.bits == 4 else _LARGEST)


def _weight(args: tuple[Any, ...]) -> IntegerWeight:
    qdata, zero_point, ratio, levels, shape, group_size = args[1:7]
    return weight_in(qdata, shape, args[10], zero_point, ratio, levels, group_size)


def _by_int_mm(*args: Any) -> Tensor:
    weight, (window, size) = _weight(args), window_of(args[7])
    x, back = args[0], args[8]
    sums = grad_input_by_int_mm(x, weight, window, size) if back else output_by_int_mm(x, weight, window)
    return scaled_by_torch(sums, *args[9:])


def _takes_int_mm(*args: Any) -> bool:
    weight = _weight(args)
    return _is_there(args) and int_mm.takes(args[0], weight.qdata, _largest(weight))


def _by_floats(*args: Any) -> Tensor:
    weight, (window, size) = _weight(args), window_of(args[7])
    blocks = _Blocks(weight)
    with torch.backends.nnpack.flags(enabled=False):  # Winograd
        sums = _grad_input(args[0], blocks, window, size) if args[8] else _output(args[0], blocks, window)
    return scaled_by_torch(sums, *args[9:])


def _takes_floats(*args: Any) -> bool:
    weight = _weight(args)
    out, taps, channels = weight.shape
    return (
        _is_there(args) and _known(args[0]) and taps * (out if args[8] else channels) <= exact_steps(_largest(weight))
    )


def _largest(weight: IntegerWeight) -> int:
    return _LARGEST_HALF if has_halves(weight) else _LARGEST


def _is_there(args: tuple[Any, ...]) -> bool:
    """Whether the result has any element."""
    return args[0].shape[0] * args[7][8] * args[7][9] * (args[5][2] if args[8] else args[5][0]) > 0


def _output(x: Tensor, blocks: _Blocks, window: Window) -> Tensor:
    x = blocks.arranged(x)
    size = window.output_size((x.shape[1], x.shape[2]))
    if len(x) * size[0] * size[1] >= _SMALL_IMAGE and window != Window():
        image = x.permute(0, 3, 1, 2)
        parts = [
            F.conv2d(image, blocks.kernel(w, window), None, window.stride, window.padding, window.dilation)
            for w in blocks
        ]
        return torch.cat(parts, dim=1).permute(0, 2, 3, 1)
    rows = _unfolded(x, window, size)
    return torch.cat([rows @ w.flatten(1).T for w in blocks], dim=1).view(len(x), *size, -1)


def _grad_input(grad: Tensor, blocks: _Blocks, window: Window, size: tuple[int, int]) -> Tensor:
    spatial = (grad.shape[1], grad.shape[2])
    grad = grad * blocks.factor
    rows, start, total = grad.flatten(0, 2), 0, None
    by_convolution = len(rows) >= _SMALL_IMAGE and window != Window()
    for w in blocks:
        part = slice(start, start + len(w))
        start = part.stop
        if by_convolution:
            image = grad[..., part].permute(0, 3, 1, 2)
            shape = [len(grad), w.shape[2], *size]
            how = (list(window.stride), list(window.padding), list(window.dilation), False, [0, 0], 1)
            kernel, like = blocks.kernel(w, window), image.new_empty(1).expand(shape)
            found = torch.ops.aten.convolution_backward(image, like, kernel, None, *how, [True, False, False])[0]
        else:
            found = rows[:, part] @ w.flatten(1)
        total = found if total is None else total.add_(found)
    assert total is not None
    back = total.permute(0, 2, 3, 1) if by_convolution else _folded(total, len(grad), window, spatial, size)
    return blocks.arranged_back(back)


def _unfolded(x: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """(B, H, W, C) -> (B H' W', T C): what each output pixel meets."""
    if window == Window():
        return x.flatten(0, 2)
    top, left = window.padding
    padded = F.pad(x, (0, 0, left, left, top, top))
    return torch.cat([under_tap(padded, tap, window, size) for tap in range(window.taps)], dim=3).flatten(0, 2)


def _folded(rows: Tensor, batch: int, window: Window, spatial: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The transpose of `_unfolded`: (B H' W', T C) -> (B, H, W, C)."""
    parts = rows.view(batch, *spatial, window.taps, -1)
    top, left = window.padding
    total = rows.new_zeros(batch, size[0] + 2 * top, size[1] + 2 * left, parts.shape[4])
    for tap in range(window.taps):
        under = under_tap(total, tap, window, spatial)
        under += parts[..., tap, :]
    return total[:, top : top + size[0], left : left + size[1]]


@dataclass(frozen=True)
class _Blocks:
    """The codes of a weight as float32 (o, T, I), in blocks of output channels.

    Two codes of a byte are not torn apart: even channels stand before odd ones, both as 16 times the code.
    """

    weight: IntegerWeight

    @property
    def factor(self) -> float:
        return 1 / 16 if has_halves(self.weight) else 1.0

    def __iter__(self) -> Iterator[Tensor]:
        out, taps, channels = self.weight.shape
        rows = max(1, _BLOCK // max(1, taps * channels))
        if not has_halves(self.weight):
            for part in self.weight.codes().view(out, taps, channels).split(rows):
                yield part.float()
            return
        for packed in self.weight.qdata.view(torch.int8).view(out, taps, channels // 2).split(rows):
            halves = torch.empty(len(packed), taps, channels)
            halves[..., : channels // 2] = packed << 4
            halves[..., channels // 2 :] = packed & -16
            yield halves

    def arranged(self, x: Tensor) -> Tensor:
        """int8 input -> float32, its channels as the weight's."""
        if has_halves(self.weight):
            x = split(x)
        return x * self.factor

    def arranged_back(self, x: Tensor) -> Tensor:
        return joined(x) if has_halves(self.weight) else x

    @staticmethod
    def kernel(w_OTI: Tensor, window: Window) -> Tensor:
        return w_OTI.unflatten(1, window.kernel).permute(0, 3, 1, 2)


def _known(x: Tensor) -> bool:
    """Whether torch's convolution is known to add products as they are: oneDNN does; and whether there are any."""
    return (
        x.device.type == "cpu"
        and platform.machine() in ("x86_64", "AMD64")
        and torch.backends.mkldnn.is_available()
        and x.numel() > 0
    )


def scaled_by_torch(
    sums: Tensor, row_scale: Tensor, column_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """`scaled` without its copies: fresh pages cost more than the arithmetic. `sums` may be overwritten."""
    if sums.numel() == 0:
        return scaled(sums, row_scale, column_scale, bias, dtype)
    value = sums.float().reshape(len(row_scale), -1, sums.shape[-1])
    value.mul_(row_scale[:, None, None]).mul_(column_scale)
    if bias is not None:
        value.add_(bias)
    return value.to(dtype).view(sums.shape)


op.add(_by_floats, "torch_float", takes=_takes_floats, condition="sums that float32 holds exactly")
op.add(_by_int_mm, "torch_int8", takes=_takes_int_mm, condition="where torch._int_mm is exact and fast")
