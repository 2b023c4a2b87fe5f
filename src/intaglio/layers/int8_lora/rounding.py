"""Activations and gradients of a layer as INT8 values and scales."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from intaglio.errors import UserError
from intaglio.kernels.codes import codes_by_group
from intaglio.kernels.row_quantizer import quantize_rows
from intaglio.layers.geometry import Conv2dGeometry, Geometry
from intaglio.layers.int8_lora.arithmetic import IntegerArithmetic
from intaglio.layers.patches import channels_last_rows


class Rounded(NamedTuple):
    """`value ~ qdata * scale`, a scale for each of equal groups of rows."""

    qdata: Tensor
    """int8 (rows, C)."""
    scale: Tensor
    """float32 (groups,)."""


def row_groups(shape: torch.Size, geometry: Geometry, how: IntegerArithmetic) -> int:
    """How many equal groups of the rows of an input of `shape` share a scale."""
    if how.granularity == "tensor":
        return 1
    return shape[0] if isinstance(geometry, Conv2dGeometry) else math.prod(shape[:-1])


def round_rows(
    x: Tensor,
    geometry: Geometry,
    how: IntegerArithmetic,
    *,
    bits: int,
    factor: Tensor | None = None,
    seed: Tensor | None = None,
) -> Rounded:
    """An input or gradient of a layer times `factor` (C,), rounded; by the quicker quantizer where it does."""
    rows, groups = channels_last_rows(x, geometry), row_groups(x.shape, geometry, how)
    if bits == 8 and not how.power_of_two and seed is None:
        qdata, scale = quantize_rows(rows.view(groups, -1, rows.shape[1]), None if factor is None else factor[None])
        return Rounded(qdata.view(rows.shape), scale)
    qdata, scale = codes_by_group(rows, bits, groups, power_of_two=how.power_of_two, factor_C=factor, seed=seed)
    return Rounded(qdata, scale[:, 0])


def check_finite(scale: Tensor, what: str, layer: str) -> None:
    """Refuse the scales of what was rounded where one is not finite.

    Raises:
        UserError: it names the layer.
    """
    if not scale.is_meta and not math.isfinite(scale.sum()) and not torch.isfinite(scale).all():
        refuse(what, layer)


def refuse(what: str, layer: str) -> None:
    raise UserError(
        f"{layer}: its {what} has values that are not finite, which no integer stands for. Try a lower "
        "learning_rate, or mixed_precision = 'no'"
    )
