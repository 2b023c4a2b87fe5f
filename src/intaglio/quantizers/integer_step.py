"""One LoRA layer's training step in integers, in plain NumPy: what the fast path and an accelerator equal bit for bit.

Every scale is a power of two, so every requantization is a shift. Tokens in rows:

    y  = x w^T          h  = x a^T        u  = q(h) b^T             output = s y 2^ex + bias + s u 2^eh
    dx = g w            gh = g b          v  = q(gh) a              grad_input = dx 2^eg + v 2^egh
    db = g^T q(h)       da = q(gh)^T x

with x, w, a, b, g and every q(.) in INT8 and the eight products in INT32. `w` (N, K) are the base's codes, and
`s` (N,) its scales, which only ever meet float numbers: at the output, and in the gradient, where `g` stands for the
gradient times `s`, because `g w` reduces over output channels. `b` stands for the pair's second matrix divided by `s`,
so that it is a further block of columns of `w`, as `a` is a further block of rows: `y` and `h` are one product, and so
are `dx` and `gh`. `a` stands for the first matrix times alpha / rank.

A scale on the axis of a reduction is folded into the other operand when that is requantized, so `a` and `b` are
quantized once, by rank, and serve both directions. A convolution is the same step over the rows that `unfold` makes of
its input, with `dx` and `v` summed by `fold`; all rows of a sample share a scale, as taps mix them. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intaglio.quantizers.window import Window

MAX_REDUCTION = (2**31 - 1) // 128**2
"""The longest sum of products of two INT8 codes that an INT32 holds, whatever the codes are."""
MIN_EXPONENT = -100
"""The finest scale of a float tensor: 2^-100 and a code are normal float32 numbers."""
DITHER_BITS = 16

Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]
Float = NDArray[np.float32]


@dataclass(frozen=True)
class Codes:
    """Integers that stand for `codes * 2**exponent`."""

    codes: Int8
    """(R, C), within `-max_code(bits) .. max_code(bits)`."""
    exponent: Int32
    """(R, 1) or (1, C)."""


@dataclass(frozen=True)
class Forward:
    y: Int32  # (M, N)
    h: Int32  # (M, r)
    h_codes: Codes  # (M, r), by row
    u: Int32  # (M, N)


@dataclass(frozen=True)
class Backward:
    dx: Int32  # (M, K)
    gh: Int32  # (M, r)
    gh_codes: Codes  # (M, r), by row
    v: Int32  # (M, K)
    h_columns: Codes  # (M, r), by column
    db: Int32  # (N, r)
    gh_columns: Codes  # (M, r), by column
    da: Int32  # (r, K)


def forward(x: Codes, weight: Int8, a: Codes, b: Codes, *, bits: int, groups: int) -> Forward:
    """The three products of the output.

    Args:
        x: (M, K), exponents by row.
        weight: int8 (N, K).
        a: (r, K), exponents by row.
        b: (N, r), exponents by column.
        bits: of the codes of `h`, 2 .. 8.
        groups: how many equal groups of rows share a scale: M for one a token.
    """
    y, h = product(x.codes, weight.T), product(x.codes, a.codes.T)
    h_codes = requantize(h, x.exponent + a.exponent.T + b.exponent, bits, groups)
    return Forward(y, h, h_codes, product(h_codes.codes, b.codes.T))


def backward(
    g: Codes, x: Codes, h: Int32, weight: Int8, a: Codes, b: Codes, *, bits: int, groups: int, seed: int | None = None
) -> Backward:
    """The five products of the gradients.

    Args:
        g: (M, N), the gradient of the output times the weight's scales; exponents by row.
        x, h, weight, a, b: as in the forward pass.
        bits: of the codes of `gh` and of `h` by column, 2 .. 8.
        groups: as in the forward pass.
        seed: of the stochastic rounding of the two operands that are summed over tokens; None rounds to nearest.
    """
    dx, gh = product(g.codes, weight), product(g.codes, b.codes)
    gh_codes = requantize(gh, g.exponent + b.exponent + a.exponent.T, bits, groups)
    v = product(gh_codes.codes, a.codes)
    h_columns = requantize(h, g.exponent + x.exponent + a.exponent.T, bits, None, None if seed is None else seed + 1)
    gh_columns = requantize(gh, g.exponent + b.exponent + x.exponent, bits, None, None if seed is None else seed + 2)
    db, da = product(g.codes.T, h_columns.codes), product(gh_columns.codes.T, x.codes)
    return Backward(dx, gh, gh_codes, v, h_columns, db, gh_columns, da)


def output(step: Forward, x: Codes, scale: Float, bias: Float | None) -> Float:
    """float32 (M, N): the output of the layer, in IEEE float32 in the order written here: what the base computes, and
    what the pair adds to it."""
    value = np.multiply(_scaled(step.y, x), scale)
    value = value if bias is None else value + bias
    return np.add(value, np.multiply(_scaled(step.u, step.h_codes), scale))


def grad_input(step: Backward, g: Codes) -> Float:
    """float32 (M, K)."""
    return np.add(_scaled(step.dx, g), _scaled(step.v, step.gh_codes))


def grad_b(step: Backward, scale: Float) -> Float:
    """float32 (N, r): the gradient of the pair's second matrix itself."""
    value: NDArray[np.float64] = np.ldexp(step.db.astype(np.float64), step.h_columns.exponent)
    return (value / scale[:, None].astype(np.float64)).astype(np.float32)


def grad_a(step: Backward, scaling: float) -> Float:
    """float32 (r, K): the gradient of the pair's first matrix itself; `scaling` is alpha / rank."""
    value: NDArray[np.float64] = np.ldexp(step.da.astype(np.float64), step.gh_columns.exponent.T)
    return (value * scaling).astype(np.float32)


def max_code(bits: int) -> int:
    return 2 ** (bits - 1) - 1


def product(left_MK: Int8, right_KN: Int8) -> Int32:
    """INT8 x INT8 -> INT32 (M, N), exact.

    Raises:
        ValueError: the reduction is longer than `MAX_REDUCTION`.
    """
    reduction = left_MK.shape[1]
    if reduction > MAX_REDUCTION:
        raise ValueError(
            f"a product that sums {reduction} terms could overflow INT32; expected at most {MAX_REDUCTION}. "
            "Split the reduction, or use a smaller batch"
        )
    return left_MK.astype(np.int32) @ right_KN.astype(np.int32)


def quantize(values: Float, bits: int, groups: int, seed: int | None = None) -> Codes:
    """float32 (R, C) -> codes with a power-of-two scale for each of `groups` equal groups of rows.

    The scale is the finest with which every value of the group has a code, and at least `2**MIN_EXPONENT`; a group of
    zeros has scale 1. Rounds half to even, or stochastically where there is a seed: `floor(value / scale + dither)`.

    Raises:
        ValueError: a value is not finite.
    """
    if not np.isfinite(values).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(values))} of {values.size} values are not finite")
    largest = np.abs(values).reshape(groups, -1).max(1, keepdims=True)
    exponent = np.frexp(largest)[1] - (bits - 1)
    exponent += np.ldexp(largest, -exponent) > max_code(bits)
    exponent = np.where(largest == 0, 0, np.maximum(exponent, MIN_EXPONENT)).astype(np.int32)
    exponent = np.repeat(exponent, len(values) // groups, axis=0)
    scaled = np.ldexp(values, -exponent)
    if seed is None:
        return Codes(np.rint(scaled).astype(np.int8), exponent)
    fraction = dither(values.shape, seed).astype(np.float32) * np.float32(2.0**-DITHER_BITS)
    return Codes(np.minimum(np.floor(scaled + fraction), max_code(bits)).astype(np.int8), exponent)


def requantize(values: Int32, exponent: NDArray[Any], bits: int, groups: int | None, seed: int | None = None) -> Codes:
    """Codes of `values * 2**exponent`, by shifts alone.

    Args:
        values: int32 (R, C).
        exponent: integers that broadcast to (R, C).
        groups: how many equal groups of rows share a scale; None: each column has its own.
        seed: round stochastically; None rounds half to even.
    """
    wide, exponent = values.astype(np.int64), np.broadcast_to(exponent, values.shape).astype(np.int64)
    finest = exponent + _shift_to_fit(np.abs(wide), bits)
    finest = np.where(wide == 0, np.iinfo(np.int64).min, finest)
    if groups is None:
        shared = finest.max(0, keepdims=True)
    else:
        shared = np.repeat(finest.reshape(groups, -1).max(1, keepdims=True), len(values) // groups, axis=0)
    shared = np.where(shared == np.iinfo(np.int64).min, 0, shared)
    shift = np.where(wide == 0, 0, shared - exponent)
    left, right = np.maximum(-shift, 0), np.maximum(shift, 0)
    if seed is None:
        codes = _shift_to_nearest(wide << left, right)
    else:
        codes = _shift_dithered(wide << left, right, dither(values.shape, seed))
    return Codes(np.minimum(codes, max_code(bits)).astype(np.int8), shared.astype(np.int32))


def dither(shape: tuple[int, ...], seed: int) -> NDArray[np.int64]:
    """Numbers 0 .. 2^16 - 1, a function of place and seed: the upper half of a 32-bit integer hash ("lowbias32",
    Wellons 2018, https://nullprogram.com/blog/2018/07/31/)."""
    mask = np.uint64(0xFFFFFFFF)
    value = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(seed * 0x9E3779B9 & 0xFFFFFFFF)
    value &= mask
    value ^= value >> np.uint64(16)
    value = (value * np.uint64(0x7FEB352D)) & mask
    value ^= value >> np.uint64(15)
    value = (value * np.uint64(0x846CA68B)) & mask
    value ^= value >> np.uint64(16)
    return (value >> np.uint64(32 - DITHER_BITS)).astype(np.int64).reshape(shape)


def seed_of(gradient: Float) -> int:
    """The seed of a step's roundings: the sum of the bit patterns of the layer's gradient, modulo 2^32.

    It needs no state, so a resumed run, or a block that gradient checkpointing runs again, rounds in the same way.
    """
    return int(np.ascontiguousarray(gradient).view(np.uint32).sum(dtype=np.uint64) & np.uint64(0xFFFFFFFF))


def unfold(codes_BHWI: Int8, window: Window) -> Int8:
    """The rows that a convolution multiplies: (B H' W', kh kw I), a row for each place of the output."""
    top, left = window.padding
    padded = np.pad(codes_BHWI, ((0, 0), (top, top), (left, left), (0, 0)))
    size = window.output_size(codes_BHWI.shape[1:3])
    taps = [padded[:, i, j] for i, j in window.under_taps(size)]
    return np.stack(taps, axis=3).reshape(len(padded) * size[0] * size[1], -1)


def fold(rows: Int32, shape: tuple[int, int, int, int], window: Window) -> Int32:
    """The transpose of `unfold`: sums (B H' W', kh kw I) into (B, H, W, I) = `shape`."""
    batch, full_height, full_width, channels = shape
    top, left = window.padding
    padded = np.zeros((batch, full_height + 2 * top, full_width + 2 * left, channels), dtype=np.int32)
    size = window.output_size((full_height, full_width))
    pieces = rows.reshape(batch, *size, -1, channels)
    for tap, (i, j) in enumerate(window.under_taps(size)):
        padded[:, i, j] += pieces[:, :, :, tap]
    return padded[:, top : top + full_height, left : left + full_width]


def _scaled(sums: Int32, operand: Codes) -> Float:
    return np.multiply(sums.astype(np.float32), np.ldexp(1.0, operand.exponent).astype(np.float32))


def _shift_to_fit(magnitude: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """The smallest s with `magnitude <= max_code * 2**s`, for magnitudes from 1 to 2^31."""
    length = np.frexp(magnitude.astype(np.float64))[1].astype(np.int64)  # exact: a float64 holds 2^31
    shift = length - (bits - 1)
    left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
    return shift + (magnitude << right > np.int64(max_code(bits)) << left)


def _shift_to_nearest(value: NDArray[np.int64], shift: NDArray[np.int64]) -> NDArray[np.int64]:
    """`value / 2**shift`, half to even."""
    shift = np.minimum(shift, 40)  # |value| <= 2^31: beyond, the nearest is 0
    half = np.int64(1) << np.maximum(shift - 1, 0)
    odd = (value >> shift) & 1
    return np.where(shift == 0, value, (value + half - 1 + odd) >> shift)


def _shift_dithered(
    value: NDArray[np.int64], shift: NDArray[np.int64], fraction: NDArray[np.int64]
) -> NDArray[np.int64]:
    """`floor(value / 2**shift + fraction / 2**16)`."""
    within = np.minimum(shift, 46)  # both terms within 2^62
    codes = ((value << DITHER_BITS) + (fraction << within)) >> (within + DITHER_BITS)
    beyond = np.where((value < 0) & (fraction == 0), -1, 0)  # |value| / 2^shift is under 2^-15 of a dither step
    return np.where(shift > 46, beyond, codes)
