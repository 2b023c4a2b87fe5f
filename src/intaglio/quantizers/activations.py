"""Tensors that change every step -> INT8 codes and scales; `integer_step` defines the power-of-two kind."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.quantizers.integer_step import DITHER_BITS, MIN_EXPONENT, max_code


def quantize_groups(
    values: Tensor, bits: int, groups: int, *, power_of_two: bool, seed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Codes with one scale for each of `groups` equal groups of rows.

    Args:
        values: float32 or float64 (R, C).
        bits: of a code, 2 .. 8; codes lie within `-(2**(bits - 1) - 1) .. 2**(bits - 1) - 1`.
        groups: R for a scale a row, 1 for one in all.
        power_of_two: take the next power of two above `largest / max_code`.
        seed: int64 scalar of the stochastic rounding; None rounds half to even.

    Returns:
        codes int8 (R, C); scale of the dtype of `values`, (groups, 1). What is not finite makes its scale so.
    """
    if not values.numel():
        return values.to(torch.int8), values.new_ones(groups, 1)
    grouped = values.reshape(groups, -1)
    scale = _scale(grouped.abs().amax(1, keepdim=True), bits, power_of_two)
    return _round((grouped / scale).view(values.shape), bits, seed), scale


def quantize_columns(
    values: Tensor, bits: int, *, power_of_two: bool, seed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As `quantize_groups`, with a scale for each column: (1, C)."""
    if not values.numel():
        return values.to(torch.int8), values.new_ones(1, values.shape[1])
    scale = _scale(values.abs().amax(0, keepdim=True), bits, power_of_two)
    return _round(values / scale, bits, seed), scale


def seed_of(gradient: Tensor) -> Tensor:
    """The seed of a step's roundings, int64 scalar: the sum of the bit patterns of `gradient` in float32, mod 2^32."""
    if gradient.dtype == torch.bfloat16:  # the upper half of a float32
        return (gradient.contiguous().view(torch.int16).sum(dtype=torch.int64) << 16) & 0xFFFFFFFF
    return gradient.float().contiguous().view(torch.int32).sum(dtype=torch.int64) & 0xFFFFFFFF


def dither(shape: torch.Size, seed: Tensor) -> Tensor:
    """int64 0 .. 2^16 - 1, equal to `integer_step.dither`."""
    value = torch.arange(shape.numel(), device=seed.device) + (seed * 0x9E3779B9 & 0xFFFFFFFF) & 0xFFFFFFFF
    value = value ^ value >> 16
    value = value * 0x7FEB352D & 0xFFFFFFFF
    value = value ^ value >> 15
    value = value * 0x846CA68B & 0xFFFFFFFF
    value = value ^ value >> 16
    return (value >> 32 - DITHER_BITS).view(shape)


def _scale(largest: Tensor, bits: int, power_of_two: bool) -> Tensor:
    if power_of_two:
        mantissa = torch.frexp(largest).mantissa
        scale = largest * 2.0 ** (1 - bits) / mantissa  # exact: a power of two
        scale = torch.where(largest > scale * max_code(bits), 2 * scale, scale)
        if largest.dtype == torch.float32:
            scale = scale.clamp(min=2.0**MIN_EXPONENT)
        return torch.where(largest == 0, torch.ones_like(scale), scale)
    scale = largest / max_code(bits)
    # Not only zero: dividing by a subnormal scale would overflow.
    return torch.where(scale <= torch.finfo(torch.float32).tiny, torch.ones_like(scale), scale)


def _round(scaled: Tensor, bits: int, seed: Tensor | None) -> Tensor:
    if seed is None:
        return scaled.round_().clamp_(-max_code(bits), max_code(bits)).to(torch.int8)
    scaled += dither(scaled.shape, seed).to(scaled.dtype) * 2.0**-DITHER_BITS
    return scaled.floor_().clamp_(-max_code(bits), max_code(bits)).to(torch.int8)
