"""Weight <-> packed codes.

Rows are output channels. A row lists its weights with the input channels last (taps before channels: a convolution's
(O, I, kh, kw) is read as (O, kh, kw, I)), so that a group of neighbours shares a tap and a channels-last kernel can
walk it without a gather.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from intaglio.errors import UserError
from intaglio.quantizers.formats import Format
from intaglio.quantizers.packing import pack_nibbles, unpack_nibbles
from intaglio.quantizers.ranges import RangeSearch, codes_to_weight, find_range, round_to_codes
from intaglio.quantizers.rotation import rotate

BLOCK_ELEMENTS = 2**18
"""Weights quantized at a time: the block and its temporaries (1 MiB each) stay in the cache."""


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight as it lies in memory and on disk."""

    qdata: Tensor
    """uint8 (O, ceil(K / 2)) for 4 bits, int8 (O, K) for more."""
    scale: Tensor
    """float32 (O, G)."""
    zero_point: Tensor | None
    """int8 (O, G), float32 where the format has a minimum; None when it is symmetric."""
    format: Format
    shape: tuple[int, ...]
    """Shape of the float weight: (O, I) or (O, I, kh, kw)."""


def to_rows(weight: Tensor) -> Tensor:
    """(O, I) or (O, I, kh, kw) -> (O, K), input channels last."""
    return weight if weight.ndim == 2 else weight.permute(0, 2, 3, 1).flatten(1)


def from_rows(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `to_rows`; a convolution comes back as a channels-last view."""
    if len(shape) == 2:
        return rows
    out_channels, in_channels, height, width = shape
    return rows.view(out_channels, height, width, in_channels).permute(0, 3, 1, 2)


def quantize(weight: Tensor, format: Format, search: RangeSearch = "mse") -> QuantizedWeight:
    """Round `weight` (O, I) or (O, I, kh, kw), any float dtype, to `format`.

    Raises:
        UserError: the weight has a value that is not finite.
    """
    if format.has_minimum or format.rotation is not None:
        raise UserError(f"format {format.name!r} is read from files of other programs, and not quantized to")
    rows = to_rows(weight.detach())
    num_rows, reduction = rows.shape
    groups = format.num_groups(reduction)
    step = max(1, BLOCK_ELEMENTS // max(reduction, 1))
    qdata = torch.empty(
        num_rows,
        format.row_bytes(reduction),
        dtype=torch.uint8 if format.bits == 4 else torch.int8,
        device=weight.device,
    )
    scale = torch.empty(num_rows, groups, dtype=torch.float32, device=weight.device)
    zero_point = torch.empty(num_rows, groups, dtype=torch.int8, device=weight.device)
    for start in range(0, num_rows, step):
        block = slice(start, start + step)
        grouped = _to_groups(rows[block].float(), format, groups)
        scale[block], zero = find_range(grouped, format, search)
        codes = round_to_codes(grouped, scale[block], zero, format).flatten(1)[:, :reduction].to(torch.int8)
        qdata[block] = pack_nibbles(codes) if format.bits == 4 else codes
        zero_point[block] = zero.to(torch.int8)
    if not torch.isfinite(scale).all():
        raise UserError(
            f"a weight of shape {tuple(weight.shape)} has values that are not finite; nothing can be quantized"
        )
    return QuantizedWeight(qdata, scale, None if format.symmetric else zero_point, format, tuple(weight.shape))


def dequantize(quantized: QuantizedWeight, dtype: torch.dtype = torch.float32) -> Tensor:
    """The float weight that the codes stand for, in its original shape; a convolution's is a channels-last view.

    The product `scale * (code - zero_point)` is rounded once, to `dtype`, except that bfloat16 and float16 round the
    scale first.
    """
    format, shape = quantized.format, quantized.shape
    reduction = math.prod(shape[1:])
    codes = quantized.qdata
    if format.bits == 4:
        codes = unpack_nibbles(codes, reduction, signed=format.levels is None and not format.has_minimum)
    grouped = _to_groups(codes, format, quantized.scale.shape[1])
    weight = codes_to_weight(grouped, quantized.scale.to(dtype), quantized.zero_point, format)
    rows = weight.flatten(1)[:, :reduction]
    if format.rotation is not None:
        rows = rotate(rows, format.rotation)
    return from_rows(rows, shape)


def _to_groups(rows: Tensor, format: Format, groups: int) -> Tensor:
    """(R, K) -> (R, G, S). A last group that is not full is padded with its own first weight, which moves no range."""
    if format.group_size is None:
        return rows[:, None, :]
    missing = groups * format.group_size - rows.shape[1]
    if missing:
        first = rows[:, (groups - 1) * format.group_size, None]
        rows = torch.cat([rows, first.expand(-1, missing)], dim=1)
    return rows.view(rows.shape[0], groups, format.group_size)
