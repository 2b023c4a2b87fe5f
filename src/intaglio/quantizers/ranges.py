"""Which range of a weight the codes cover: absmax, percentile, or the one with the least squared error."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.quantizers.base import RangeSearch
from intaglio.quantizers.formats import Format

RANGE_SEARCHES: tuple[RangeSearch, ...] = ("absmax", "percentile", "mse")

PERCENTILE = 0.999
"""Share of a group's weights that the percentile search covers."""


def shrink_factors(format: Format) -> list[float]:
    """Fractions of the full range that the MSE search tries.

    Eight bits gain little from clipping, and a codebook's nearest level costs 10 times a rounding: fewer are tried.
    """
    if format.bits == 8:
        return [1.0, 0.95, 0.9, 0.85]
    return [1.0, 0.92, 0.85] if format.levels is not None else [1.0 - 0.05 * i for i in range(12)]


def find_range(weight: Tensor, format: Format, search: RangeSearch) -> tuple[Tensor, Tensor]:
    """Scale and zero point of groups of weights.

    Args:
        weight: float32 (R, G, S): rows, groups, weights of a group.

    Returns:
        scale float32 (R, G), positive; zero_point float32 (R, G), integral, 0 when the format is symmetric.
    """
    low, high = weight.amin(-1), weight.amax(-1)
    if search == "percentile":
        low, high = _percentile_range(weight)
    scale, zero_point = range_to_scale(low, high, format)
    if search != "mse":
        return scale, zero_point
    best_error = squared_error(weight, scale, zero_point, format)
    for factor in shrink_factors(format)[1:]:
        candidate, candidate_zero = range_to_scale(low * factor, high * factor, format)
        error = squared_error(weight, candidate, candidate_zero, format)
        better = error < best_error
        scale = torch.where(better, candidate, scale)
        zero_point = torch.where(better, candidate_zero, zero_point)
        best_error = torch.where(better, error, best_error)
    return scale, zero_point


def range_to_scale(low: Tensor, high: Tensor, format: Format) -> tuple[Tensor, Tensor]:
    """The finest scale whose codes reach from `low` to `high` (any shape); an all-zero group gets scale 1."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    if format.levels is not None:
        scale = torch.maximum(high / format.levels[-1], low / format.levels[0])
    elif format.symmetric:
        scale = torch.maximum(high / format.code_max, low / format.code_min)
    else:
        scale = (high - low) / (format.code_max - format.code_min)
    # Not only zero: dividing by a subnormal scale would overflow. What is not a number stays so, and is found later.
    scale = torch.where(scale <= torch.finfo(torch.float32).tiny, torch.ones_like(scale), scale)
    if format.symmetric:
        return scale, torch.zeros_like(scale)
    return scale, (format.code_min - low / scale).round_().clamp_(format.code_min, format.code_max)


def round_to_codes(weight: Tensor, scale: Tensor, zero_point: Tensor, format: Format) -> Tensor:
    """Nearest codes of `weight` (R, G, S), as float32 of the same shape."""
    if format.levels is not None:
        levels = torch.tensor(format.levels, device=weight.device)
        borders = (levels[1:] + levels[:-1]) / 2
        return torch.bucketize(weight / scale[..., None], borders).float()
    codes = (weight / scale[..., None]).round_()
    if not format.symmetric:
        codes += zero_point[..., None]
    return codes.clamp_(format.code_min, format.code_max)


def codes_to_weight(codes: Tensor, scale: Tensor, zero_point: Tensor | None, format: Format) -> Tensor:
    """The weight that codes (R, G, S) stand for, in the dtype of `scale`."""
    if format.levels is not None:
        levels = torch.tensor(format.levels, dtype=scale.dtype, device=codes.device)
        return levels[codes.int()] * scale[..., None]
    codes = codes.to(scale.dtype)
    if format.has_minimum:
        assert zero_point is not None
        return codes * scale[..., None] - zero_point[..., None].to(scale.dtype)
    if zero_point is not None and not format.symmetric:
        codes = codes - zero_point[..., None].to(scale.dtype)
    return codes * scale[..., None]


def squared_error(weight: Tensor, scale: Tensor, zero_point: Tensor, format: Format) -> Tensor:
    """Sum of squared rounding errors of each group, (R, G)."""
    codes = round_to_codes(weight, scale, zero_point, format)
    return codes_to_weight(codes, scale, zero_point, format).sub_(weight).square_().sum(-1)


def _percentile_range(weight: Tensor) -> tuple[Tensor, Tensor]:
    keep = max(1, round(PERCENTILE * weight.shape[-1]))
    low = weight.kthvalue(weight.shape[-1] - keep + 1, dim=-1).values
    return low, weight.kthvalue(keep, dim=-1).values
