"""The integers that a frozen weight is multiplied as: INT8 codes and one scale per output channel.

    W ~ codes * scale[:, None]

A symmetric per-channel format is that already, and so is a 4-bit one with zero points (its differences fit 5 bits):
their products are exact in the integers that lie in memory. Groups and codebooks have several scales in a channel, and
INT8 with zero points takes 9 bits: those weights are rounded once more, to INT8 with one scale per output channel,
while they are unpacked. That moves a weight by at most 1/254 of the largest of its channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from intaglio.quantizers.packing import unpack_nibbles
from intaglio.quantizers.quantize import QuantizedWeight


@dataclass(frozen=True)
class IntegerWeight:
    """A view of a `QuantizedWeight`: the codes stay where they are, packed."""

    qdata: Tensor
    """uint8 (O, ceil(K / 2)) or int8 (O, K), as in `QuantizedWeight`."""
    shape: tuple[int, int, int]
    """(O, taps, I): output channels, taps of the kernel, input channels; K = taps * I."""
    scale: Tensor
    """float32 (O,): of the INT8 codes."""
    zero_point: Tensor | None
    """int8 (O, G), or None."""
    ratio: Tensor | None
    """float32 (O, G): code = round((stored - zero_point) * ratio); None when stored - zero_point is the code."""
    levels: Tensor | None
    """float32 (16,): stands for the stored code of a codebook; None otherwise."""
    group_size: int

    def codes(self) -> Tensor:
        """int8 (O, K): the definition of what is multiplied. A new tensor; the fast path never makes it."""
        reduction = self.shape[1] * self.shape[2]
        stored = self.qdata
        if stored.dtype == torch.uint8:
            stored = unpack_nibbles(stored, reduction, signed=self.levels is None)
        if self.zero_point is None and self.ratio is None:
            return stored
        group = torch.arange(reduction, device=stored.device) // self.group_size
        value = stored.short() if self.zero_point is None else stored.short() - self.zero_point[:, group]
        if self.ratio is not None:
            number = value.float() if self.levels is None else self.levels[value.int()]
            value = (number * self.ratio[:, group]).round()
        return value.to(torch.int8)


def integer_weight(quantized: QuantizedWeight) -> IntegerWeight:
    """What `quantized` is multiplied as. Cheap: no tensor of the size of the weight is made."""
    format, out = quantized.format, quantized.shape[0]
    channels = quantized.shape[1]
    taps = 1 if len(quantized.shape) == 2 else quantized.shape[2] * quantized.shape[3]
    scale, zero = quantized.scale, quantized.zero_point
    levels = None if format.levels is None else torch.tensor(format.levels, device=scale.device)
    one_scale = scale.shape[1] == 1
    exact = one_scale and levels is None and (format.symmetric or format.code_max - format.code_min <= 127)
    ratio = None
    if exact:
        channel_scale = scale[:, 0]
    else:
        channel_scale = (scale * _largest(quantized)).amax(1) / 127
        ratio = (scale / channel_scale[:, None]).contiguous()
    group_size = taps * channels if format.group_size is None else format.group_size
    return IntegerWeight(
        quantized.qdata, (out, taps, channels), channel_scale.contiguous(), zero, ratio, levels, max(1, group_size)
    )


def _largest(quantized: QuantizedWeight) -> Tensor | float:
    """The largest |code - zero_point| that each group may hold, broadcast to (O, G)."""
    format = quantized.format
    if format.levels is not None:
        return max(abs(level) for level in format.levels)
    if quantized.zero_point is None:
        return float(max(-format.code_min, format.code_max))
    zero = quantized.zero_point.float()
    return torch.maximum(zero - format.code_min, format.code_max - zero)
