"""How much of a left operand a tile touches: all of it, or the pixels under a convolution's window."""

from __future__ import annotations

import numpy as np

from intaglio.accelerator.dataflow import Float, Int, ceil_div
from intaglio.accelerator.products import Products

_GEOMETRY = ("taps", "stride", "reach", "out_w", "in_w", "in_pixels", "pixels_on_reduction")


def window_elements(p: Products, tile_m: Int, tile_k: Int) -> Float:
    """Elements of the left operand that a tile touches: tile_m x tile_k, or the pixels under a convolution's window.

    The first axis of the tiles is that of the products.
    """
    elements = (tile_m * tile_k).astype(np.float64)
    rows = np.flatnonzero(p.taps > 1)
    if rows.size:
        elements[rows] = _pixels_times_channels(p.take(rows), tile_m[rows], tile_k[rows], elements[rows])
    return elements


def _pixels_times_channels(p: Products, tile_m: Int, tile_k: Int, unrolled: Float) -> Float:
    """Whole rows of pixels under the window, or a part of one row; never more than the unrolled tile."""
    shape = (-1,) + (1,) * (np.ndim(tile_m) - 1)
    taps, stride, reach, out_w, in_w, in_pixels, on_reduction = (getattr(p, n).reshape(shape) for n in _GEOMETRY)
    pixels_out, depth = np.where(on_reduction, tile_k, tile_m), np.where(on_reduction, tile_m, tile_k)
    whole_rows = ((ceil_div(pixels_out, out_w) - 1) * stride + reach) * in_w
    part_of_row = ((pixels_out - 1) * stride + reach) * reach
    pixels = np.minimum(np.where(pixels_out >= out_w, whole_rows, part_of_row), in_pixels)
    return np.minimum(pixels * ceil_div(depth, taps), unrolled)


def longest_under(p: Products, fixed: Int, largest: Int, elements: Float, streams_m: bool) -> Int:
    """The longest tile of the streamed dimension whose window holds at most `elements`; 0 where none does.

    Args:
        fixed: the tile's other dimension, (products, tiles).
        largest: the streamed dimension, (products, 1).
        streams_m: M is streamed, else K.
    """
    longest = np.clip(np.floor(elements / fixed), 0, largest).astype(np.int64)
    rows = np.flatnonzero(p.taps > 1)
    if rows.size:
        q, other, limit = p.take(rows), fixed[rows], elements[rows]
        low, high = (
            longest[rows],
            np.broadcast_to(largest[rows], other.shape).copy(),
        )  # the window is never more than unrolled
        while (low < high).any():
            middle = (low + high + 1) // 2
            tile = (middle, other) if streams_m else (other, middle)
            fits = window_elements(q, *tile) <= limit
            low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
        longest[rows] = low
    return longest
