"""Quantized layers without memory: on the meta device, for weights that come later and for what needs shapes alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from intaglio.layers import frozen
from intaglio.layers.names import replace
from intaglio.layers.quantize_model import BaseRecord, layers_to_quantize, set_base_record
from intaglio.quantizers.formats import Format, parse_format
from intaglio.quantizers.quantize import QuantizedWeight


def quantize_empty(model: nn.Module, format: str | Format, keep_float: Sequence[str]) -> None:
    """What `quantize_model` does, without values."""
    format = parse_format(format)
    for name in layers_to_quantize(model, keep_float):
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        replace(model, name, skeleton(layer, format))
    set_base_record(model, BaseRecord(format.name, "absmax", tuple(keep_float)))


def skeleton(layer: nn.Linear | nn.Conv2d, format: Format, has_input_scale: bool = False) -> nn.Module:
    """The quantized twin of `layer`: the shapes and dtypes of its tensors."""
    channels = frozen.geometry(layer).in_channels
    input_scale = _empty(channels, dtype=torch.float32) if has_input_scale else None
    return frozen.with_weight(layer, _empty_weight(tuple(layer.weight.shape), format), input_scale)


def _empty_weight(shape: tuple[int, ...], format: Format) -> QuantizedWeight:
    rows, reduction = shape[0], torch.Size(shape[1:]).numel()
    groups = format.num_groups(reduction)
    return QuantizedWeight(
        _empty(rows, format.row_bytes(reduction), dtype=torch.uint8 if format.bits == 4 else torch.int8),
        _empty(rows, groups, dtype=torch.float32),
        None if format.symmetric else _empty(rows, groups, dtype=torch.int8),
        format,
        shape,
    )


def _empty(*size: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(*size, dtype=dtype, device="meta")
