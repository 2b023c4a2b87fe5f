"""Tiles under the buffers' limits, loop order, and the DRAM traffic that follows; vectorised over operations and
candidates.

A tile is (tile_m, tile_n, tile_k); a buffer holds one tile of each operand, half of the buffer when double-buffered.
With trips (Tm, Tn, Tk) and an order of the three loops, an operand is fetched again once for every trip of a loop that
does not index it and lies outside the innermost of its own loops that trips at all. Results that come back as
partial sums
travel at accumulator width, twice.

The streamed dimension (M in WS, K in OS) may be cut into `pieces`: partial sums then stay on chip, but every piece pays
load, skew and drain again. `cost` weighs that against the traffic; this module gives the least traffic for each
count of pieces.
With one piece the streamed operand need not fit: it passes through its buffer and is fetched for each fold that
needs it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from intaglio.accelerator.dataflow import Dataflow, Int, ceil_div
from intaglio.accelerator.workload import Products
from intaglio.errors import UserError

Float = NDArray[np.float64]
# Outer to inner. The two outer loops may be in either order: where the innermost trips they are alike, and where it
# does not,
# the order is one of the other two.
ORDERS = (("n", "k", "m"), ("m", "k", "n"), ("m", "n", "k"))
STREAMED = len(ORDERS)  # the order of the candidate whose streamed operand does not stay
ROW_TILES = 2 ** np.arange(8)  # tiles on the rows, in folds
PIECES = 2 ** np.arange(10)


@dataclass(frozen=True, slots=True)
class Limits:
    """What tiles must respect: usable bytes of the three buffers, array size, width of sums and results."""

    input_bytes: float
    weight_bytes: float
    output_bytes: float
    rows: int
    cols: int
    accumulator_bits: int
    result_bits: int


@dataclass(frozen=True)
class Tilings:
    """Candidates, sorted by product and pieces; bytes of one instance.

    Every product has at least one. A further one has more pieces and less traffic than all before it.
    """

    product: Int  # which row of the products
    pieces: Int
    feasible: NDArray[np.bool_]
    left_bytes: Float
    right_bytes: Float
    result_bytes: Float
    tile_m: Int
    tile_n: Int
    tile_k: Int
    order: Int  # index into ORDERS, or STREAMED

    @property
    def dram_bytes(self) -> Float:
        return self.left_bytes + self.right_bytes + self.result_bytes


def tile_products(p: Products, limits: Limits, dataflow: Dataflow, temporal_tiling: bool) -> Tilings:
    """The tilings of every product. A product that fits in no way has one candidate with `feasible` False."""
    pieces = PIECES if temporal_tiling else PIECES[:1]
    best = _resident(p, limits, dataflow, pieces)
    streamed = _streamed(p, limits, dataflow)
    better = streamed["bytes"] < best["bytes"][:, 0]
    for name, values in best.items():
        values[:, 0] = np.where(better, streamed[name], values[:, 0])
    return _non_dominated(best, pieces, _minimum_fits(p, limits, dataflow))


def _non_dominated(best: dict[str, NDArray], pieces: Int, fits: NDArray[np.bool_]) -> Tilings:
    """Keep what has less traffic than every candidate with fewer pieces."""
    total = np.where(fits[:, None], best["bytes"], np.inf)
    before = np.minimum.accumulate(total, axis=1)
    keep = np.ones(total.shape, dtype=bool)
    keep[:, 1:] = total[:, 1:] < before[:, :-1]
    first_only = np.isinf(total[:, 0]) & (keep[:, 1:].any(axis=1) if total.shape[1] > 1 else False)
    keep[first_only, 0] = False
    product, candidate = np.nonzero(keep)
    feasible = np.isfinite(total[keep])
    left, right, result = (np.where(feasible, best[name][keep], 0.0) for name in ("left", "right", "result"))
    tiles = (best[name][keep].astype(np.int64) for name in ("m", "n", "k", "order"))
    return Tilings(product, pieces[candidate], feasible, left, right, result, *tiles)


def window_elements(p: Products, tile_m: Int, tile_k: Int) -> Float:
    """Elements of the left operand that a tile touches: tile_m x tile_k, or the pixels under a convolution's window."""
    elements = (tile_m * tile_k).astype(np.float64)
    rows = np.flatnonzero(p.taps > 1)
    if rows.size:
        elements[rows] = _pixels_times_channels(p.take(rows), tile_m[rows], tile_k[rows], elements[rows])
    return elements


def _pixels_times_channels(p: Products, tile_m: Int, tile_k: Int, unrolled: Float) -> Float:
    """Whole rows of pixels under the window, or a part of one row; never more than the unrolled tile."""
    shape = (-1,) + (1,) * (np.ndim(tile_m) - 1)
    taps, stride, reach, out_w, in_w, in_pixels, on_reduction = (
        getattr(p, n).reshape(shape)
        for n in ("taps", "stride", "reach", "out_w", "in_w", "in_pixels", "pixels_on_reduction")
    )
    pixels_out, depth = np.where(on_reduction, tile_k, tile_m), np.where(on_reduction, tile_m, tile_k)
    whole_rows = ((ceil_div(pixels_out, out_w) - 1) * stride + reach) * in_w
    part_of_row = ((pixels_out - 1) * stride + reach) * reach
    pixels = np.minimum(np.where(pixels_out >= out_w, whole_rows, part_of_row), in_pixels)
    return np.minimum(pixels * ceil_div(depth, taps), unrolled)


def require_feasible(p: Products, names: list[str], limits: Limits, dataflows: tuple[Dataflow, ...]) -> None:
    """Raise a `UserError` (demand, bound, gap, what would help) when a product fits under no dataflow."""
    fits = np.any([_minimum_fits(p, limits, d) for d in dataflows], axis=0)
    if fits.all():
        return
    i = int(np.argmin(fits))
    M, N, K = int(p.M[i]), int(p.N[i]), int(p.K[i])
    lines = [
        f"{names[i]}: the product M={M} N={N} K={K} does not fit on this accelerator, nor do "
        f"{int((~fits).sum()) - 1} others"
    ]
    for dataflow in dataflows:
        for buffer, demand, bound in _demands(p, limits, dataflow):
            need, have = float(demand[i]), float(bound)
            if need > have:
                lines.append(
                    f"  {dataflow}: one fold needs {need:,.0f} bytes of the {buffer} buffer, usable are {have:,.0f}, "
                    f"short of {need - have:,.0f}"
                )
    lines.append(
        "  what would help: a larger buffer, double_buffered = false (doubles what is usable), fewer rows or cols, "
        "fewer operand_bits, or the other dataflow in `modes`"
    )
    raise UserError("\n".join(lines))


def _demands(p: Products, limits: Limits, dataflow: Dataflow) -> list[tuple[str, Float, float]]:
    """Bytes that the smallest schedule, a fold at a time, holds in each buffer."""
    n = np.minimum(p.N, limits.cols)
    on_rows = np.minimum(p.K if dataflow == "weight_stationary" else p.M, limits.rows)
    sums = limits.accumulator_bits / 8
    if dataflow == "weight_stationary":
        weight, output = on_rows * n * p.right_bits / 8, n * sums
    else:
        weight, output = n * p.right_bits / 8, on_rows * n * sums
    return [
        ("input", on_rows * p.left_bits / 8, limits.input_bytes),
        ("weight", weight, limits.weight_bytes),
        ("output", output, limits.output_bytes),
    ]


def _minimum_fits(p: Products, limits: Limits, dataflow: Dataflow) -> NDArray[np.bool_]:
    return np.all([demand <= bound for _, demand, bound in _demands(p, limits, dataflow)], axis=0)


def _resident(p: Products, limits: Limits, dataflow: Dataflow, pieces: Int) -> dict[str, NDArray]:
    """Every tile of the three operands fits: for each count of pieces and tile on the rows, the widest tile_n."""
    M, N, K = (v[:, None, None] for v in (p.M, p.N, p.K))
    stationary = dataflow == "weight_stationary"
    on_rows, streams = (K, M) if stationary else (M, K)
    rows_tile = np.minimum(limits.rows * ROW_TILES[None, None, :], on_rows)
    streamed_tile = ceil_div(streams, pieces[None, :, None])
    real = (pieces[None, :, None] <= streams) & ((limits.rows * ROW_TILES // 2 < on_rows) | (ROW_TILES == 1))
    tile_m, tile_k = (streamed_tile, rows_tile) if stationary else (rows_tile, streamed_tile)
    tile_m, tile_k = np.broadcast_arrays(tile_m, tile_k)
    left_bytes, right_bytes = p.left_bits[:, None, None] / 8, p.right_bits[:, None, None] / 8
    fits = real & (window_elements(p, tile_m, tile_k) * left_bytes <= limits.input_bytes)
    partial = (ceil_div(K, limits.rows) > 1) if stationary else (pieces[None, :, None] > 1)
    held_rows = np.where(partial, tile_m, np.minimum(tile_m, limits.rows if not stationary else 1))
    widest = np.minimum(
        limits.weight_bytes / (tile_k * right_bytes), limits.output_bytes / (held_rows * limits.accumulator_bits / 8)
    )
    tile_n = np.where(widest >= N, N, np.floor(widest / limits.cols).astype(np.int64) * limits.cols)
    fits &= tile_n > 0
    tile_n = np.maximum(tile_n, 1)
    return _best_order(p, limits, fits, tile_m, tile_n, tile_k)


def _best_order(
    p: Products, limits: Limits, fits: NDArray[np.bool_], tile_m: Int, tile_n: Int, tile_k: Int
) -> dict[str, NDArray]:
    """Least DRAM bytes over the loop orders and the row tiles (last axis)."""
    column = (slice(None), None, None)
    trips = {
        "m": ceil_div(p.M[column], tile_m),
        "n": ceil_div(p.N[column], tile_n),
        "k": ceil_div(p.K[column], tile_k),
    }
    once = _once_bytes(p, limits, tile_m, tile_k, trips)
    spill = 2 * limits.accumulator_bits / 8 * (p.M * p.N)[column] * (p.result_on_chip == 0)[column]
    shape = (*fits.shape[:2], len(ORDERS) * fits.shape[2])
    parts = {name: np.empty((*fits.shape[:2], len(ORDERS), fits.shape[2])) for name in ("left", "right", "result")}
    for index, order in enumerate(ORDERS):
        parts["left"][:, :, index] = once["left"] * _refetch(order, trips, "mk")
        parts["right"][:, :, index] = once["right"] * _refetch(order, trips, "kn")
        parts["result"][:, :, index] = once["result"] + spill * (_refetch(order, trips, "mn") - 1)
    total = np.where(fits[:, :, None], parts["left"] + parts["right"] + parts["result"], np.inf)
    found = {"bytes": total, **parts}
    pick = np.argmin(total.reshape(shape), axis=2)[:, :, None]
    best = {n: np.take_along_axis(v.reshape(shape), pick, axis=2)[:, :, 0] for n, v in found.items()}
    order, row_tile = np.divmod(pick, fits.shape[2])
    tiles = {"m": tile_m, "n": tile_n, "k": tile_k}
    best |= {n: np.take_along_axis(v, row_tile, axis=2)[:, :, 0].astype(np.float64) for n, v in tiles.items()}
    return best | {"order": order[:, :, 0].astype(np.float64)}


def _once_bytes(p: Products, limits: Limits, tile_m: Int, tile_k: Int, trips: dict[str, Int]) -> dict[str, Float]:
    """Bytes of each operand fetched once; a convolution's tiles overlap by their halo."""
    column = (slice(None), None, None)
    plain = (p.M * p.K)[column].astype(np.float64)
    windows = window_elements(p, tile_m, tile_k) * trips["m"] * trips["k"]
    left = np.where((p.taps > 1)[column], np.minimum(windows, plain), plain) * p.left_bits[column] / 8
    return {
        "left": left * (p.left_on_chip == 0)[column],
        "right": (p.K * p.N * p.right_bits)[column] / 8,
        "result": (p.M * p.N * (p.result_on_chip == 0))[column] * limits.result_bits / 8,
    }


def _refetch(order: tuple[str, ...], trips: dict[str, Int], indexed: str) -> Int:
    """How often an operand that the loops `indexed` index is fetched."""
    other = next(name for name in "mnk" if name not in indexed)
    inside = order[order.index(other) + 1 :]
    moves = np.zeros(trips[other].shape, dtype=bool)
    for name in inside:
        moves = moves | (trips[name] > 1)
    return np.where(moves, trips[other], 1)


def _streamed(p: Products, limits: Limits, dataflow: Dataflow) -> dict[str, NDArray]:
    """One piece, a fold at a time; whatever contains the streamed dimension stays only where it happens to fit."""
    rows, cols, sums = limits.rows, limits.cols, limits.accumulator_bits / 8
    left_whole = window_elements(p, p.M, p.K) * p.left_bits / 8
    right_whole, outputs = p.K * p.N * p.right_bits / 8, p.M * p.N
    col_folds = ceil_div(p.N, cols)
    if dataflow == "weight_stationary":
        row_folds, tile_m, tile_k = ceil_div(p.K, rows), p.M, np.minimum(p.K, rows)
        strip = window_elements(p, p.M, tile_k) * p.left_bits / 8
        left = np.array(
            [_again(left_whole > limits.input_bytes, col_folds), _again(strip > limits.input_bytes, col_folds)]
        )
        right = np.ones_like(left)
        spilled = [p.M * np.minimum(p.N, cols) * sums > limits.output_bytes, outputs * sums > limits.output_bytes]
        spills = np.array([_again(s, row_folds) for s in spilled]) - 1
    else:
        row_folds, tile_m, tile_k = ceil_div(p.M, rows), np.minimum(p.M, rows), p.K
        strip = window_elements(p, tile_m, p.K) * p.left_bits / 8
        column = p.K * np.minimum(p.N, cols) * p.right_bits / 8
        left = np.array(
            [_again(strip > limits.input_bytes, col_folds), _again(left_whole > limits.input_bytes, col_folds)]
        )
        right = np.array(
            [_again(right_whole > limits.weight_bytes, row_folds), _again(column > limits.weight_bytes, row_folds)]
        )
        spills = np.zeros_like(left)
    off_chip = p.result_on_chip == 0
    left = left * left_whole * (p.left_on_chip == 0)
    right = right * right_whole
    result = outputs * off_chip * (limits.result_bits / 8 + 2 * sums * spills)
    total = left + right + result
    pick = np.argmin(total, axis=0)[None]
    left, right, result, total = (np.take_along_axis(v, pick, axis=0)[0] for v in (left, right, result, total))
    tile_n = np.minimum(p.N, cols)
    order = np.full(len(p), float(STREAMED))
    return {
        "bytes": total,
        "left": left,
        "right": right,
        "result": result,
        "order": order,
        "m": tile_m,
        "n": tile_n,
        "k": tile_k,
    }


def _again(too_large: NDArray[np.bool_], folds: Int) -> Int:
    return np.where(too_large, folds, 1)
