"""Tiles under the buffers' limits, loop order, and the DRAM traffic that follows; vectorised over operations and
candidates.

A tile is (tile_m, tile_n, tile_k); a buffer holds one tile of each operand, half of the buffer when double-buffered.
With trips (Tm, Tn, Tk) and an order of the three loops, an operand is fetched again once for every trip of a loop that
does not index it and lies outside the innermost of its own loops that trips at all. Results that come back as
partial sums travel at accumulator width, twice.

The streamed dimension (M in WS, K in OS) may be cut into `pieces` of equal length, give or take one: partial sums then
stay on chip, but every piece pays load, skew and drain again. For each tile of the other two dimensions there is a
least number of pieces under which all fits; `cost` weighs folds against traffic, and this module drops what is beaten
in both. With one piece the streamed operand need not fit: it passes through its buffer and is fetched for each fold
that needs it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from intaglio.accelerator.attention_blocks import attention_blocks
from intaglio.accelerator.dataflow import (
    Dataflow,
    Float,
    Int,
    Overlap,
    ceil_div,
    cycles_of_cuts,
    spatial_and_temporal,
)
from intaglio.accelerator.limits import Limits, fits_a_fold
from intaglio.accelerator.products import Products
from intaglio.accelerator.window import longest_under, window_elements

# Outer to inner. The two outer loops may be in either order: where the innermost trips they are alike, and where it
# does not,
# the order is one of the other two.
ORDERS = (("n", "k", "m"), ("m", "k", "n"), ("m", "n", "k"))
STREAMED = len(ORDERS)  # the order of the candidate whose streamed operand does not stay
BLOCKS = STREAMED + 1  # of an attention whose scores stay on chip
# Tiles that are tried: so many folds, or all of them in so many trips; on the columns also equal parts.
ROW_FOLDS, ROW_TRIPS = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32]), np.array([1, 2, 3, 4])
COLUMN_FOLDS, COLUMN_TRIPS = np.array([1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16]), np.array([1, 2, 3])
COLUMN_PARTS = np.array([2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 28, 32, 40])


@dataclass(frozen=True)
class Tilings:
    """Candidates, sorted by product and cycles; bytes of one instance.

    Every product has at least one. A further one takes more cycles and less traffic than all before it.
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
    order: Int  # index into ORDERS, STREAMED or BLOCKS

    @property
    def dram_bytes(self) -> Float:
        return self.left_bytes + self.right_bytes + self.result_bytes

    def join(self, other: Tilings) -> Tilings:
        """The rows of both, one after the other."""
        return Tilings(
            **{f.name: np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)}
        )

    def take(self, index: Int) -> Tilings:
        return Tilings(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


Candidates = dict[
    str, NDArray
]  # (products, candidates): pieces, left, right, result (inf bytes: does not fit), m, n, k, order


def candidates_of(p: Products, limits: Limits, dataflow: Dataflow, temporal_tiling: bool) -> Candidates:
    """All tilings of every product, with the bytes of one instance."""
    found = [_resident(p, limits, dataflow, temporal_tiling), _streamed(p, limits, dataflow)]
    both = {name: np.concatenate([c[name] for c in found], axis=1) for name in found[0]}
    both["left"] = np.where(fits_a_fold(p, limits, dataflow)[:, None], both["left"], np.inf)
    blocks = np.flatnonzero(p.attention > 0)
    if blocks.size:
        fixed = attention_blocks(p.take(blocks), limits, dataflow) | {"order": np.full(len(blocks), BLOCKS)}
        for name, values in both.items():
            values[blocks] = fixed[name][:, None]
    return both


def tile_products(
    p: Products,
    found: Candidates,
    dataflow: Dataflow,
    overlap: Overlap,
    rows: int,
    cols: int,
    sub_arrays: int = 1,
    shares: int = 1,
) -> Tilings:
    """The tilings that are best on `sub_arrays` arrays of rows x cols, each piece shared by `shares` of them.

    A product that fits in no way has one candidate with `feasible` False.
    """
    column = (slice(None), None)
    on_rows, _, streams = spatial_and_temporal(p.M, p.N, p.K, dataflow)
    folds = (ceil_div(on_rows, rows) * p.batch)[column] * column_folds(p.N[column], found["n"], cols)
    cuts = np.minimum(found["pieces"] * shares, streams[column])
    cycles = cycles_of_cuts(folds, streams[column], cuts, sub_arrays, rows, cols, dataflow, overlap)
    return _non_dominated(found, cycles)


def column_folds(N: Int, tile_n: Int, cols: int) -> Int:
    """Folds along the columns: each tile begins a new one."""
    trips = ceil_div(N, tile_n)
    return (trips - 1) * ceil_div(tile_n, cols) + ceil_div(N - (trips - 1) * tile_n, cols)


def _non_dominated(found: Candidates, cycles: Int) -> Tilings:
    """Sort by cycles; keep what has less traffic than all before it."""
    total = found["left"] + found["right"] + found["result"]
    cycles = np.where(np.isfinite(total), cycles, np.iinfo(np.int64).max)
    order = np.lexsort((total, cycles), axis=1)
    ranked = np.take_along_axis(total, order, axis=1)
    keep = np.ones(ranked.shape, dtype=bool)
    keep[:, 1:] = ranked[:, 1:] < np.minimum.accumulate(ranked, axis=1)[:, :-1]
    product, rank = np.nonzero(keep)
    pick = (product, order[product, rank])
    feasible = np.isfinite(total[pick])
    parts = [np.where(feasible, found[name][pick], 0.0) for name in ("left", "right", "result")]
    tiles = [found[name][pick].astype(np.int64) for name in ("m", "n", "k", "order")]
    return Tilings(product, found["pieces"][pick].astype(np.int64), feasible, *parts, *tiles)


def _resident(p: Products, limits: Limits, dataflow: Dataflow, temporal_tiling: bool) -> Candidates:
    """Every tile of the three operands fits: for each tile on rows and columns, the least pieces of what streams."""
    stationary = dataflow == "weight_stationary"
    M, N, K = (v[:, None] for v in (p.M, p.N, p.K))
    on_rows, streams = (K, M) if stationary else (M, K)
    row_tile, col_tile = _tiles_of_the_array(on_rows, N, limits)
    left_bytes, right_bytes, sums = p.left_bits[:, None] / 8, p.right_bits[:, None] / 8, limits.accumulator_bits / 8
    longest = longest_under(p, row_tile, streams, limits.input_bytes / left_bytes * np.ones(row_tile.shape), stationary)
    if stationary:
        accumulates = limits.rows < K
        longest = np.where(accumulates, np.minimum(longest, limits.output_bytes // (col_tile * sums)), longest)
        fits = (row_tile * col_tile * right_bytes <= limits.weight_bytes) & (col_tile * sums <= limits.output_bytes)
    else:
        longest = np.minimum(longest, limits.weight_bytes // (col_tile * right_bytes))
        held = np.where(
            longest < streams, row_tile, np.minimum(row_tile, limits.rows)
        )  # pieces: sums of the whole tile
        fits = held * col_tile * sums <= limits.output_bytes
    longest = longest.astype(np.int64)
    fits &= longest > 0
    pieces = ceil_div(streams, np.maximum(longest, 1))
    if not temporal_tiling:
        fits &= (pieces == 1) & ((col_tile % limits.cols == 0) | (col_tile == N))
    piece = ceil_div(streams, pieces)
    tile_m, tile_k = (piece, row_tile) if stationary else (row_tile, piece)
    return _best_order(p, limits, fits, pieces, tile_m, col_tile, tile_k)


def _tiles_of_the_array(on_rows: Int, N: Int, limits: Limits) -> tuple[Int, Int]:
    """(tile on the rows, tile on the columns) of every candidate: whole folds, and columns also in equal parts."""
    rows = _whole_folds(on_rows, limits.rows, ROW_FOLDS, ROW_TRIPS)
    cols = _whole_folds(N, limits.cols, COLUMN_FOLDS, COLUMN_TRIPS)
    cols = np.concatenate([cols, ceil_div(N, COLUMN_PARTS)], axis=1)
    shape = (len(N), rows.shape[1], cols.shape[1])
    row_tile, col_tile = np.broadcast_to(rows[:, :, None], shape), np.broadcast_to(cols[:, None, :], shape)
    return row_tile.reshape(len(N), -1), col_tile.reshape(len(N), -1)


def _whole_folds(length: Int, side: int, folds: Int, trips: Int) -> Int:
    counts = np.concatenate(
        [np.broadcast_to(folds, (len(length), len(folds))), ceil_div(ceil_div(length, side), trips)], axis=1
    )
    return np.minimum(counts * side, length)


def _best_order(
    p: Products, limits: Limits, fits: NDArray[np.bool_], pieces: Int, tile_m: Int, tile_n: Int, tile_k: Int
) -> Candidates:
    """Least DRAM bytes over the loop orders."""
    column = (slice(None), None)
    trips = {"m": ceil_div(p.M[column], tile_m), "n": ceil_div(p.N[column], tile_n), "k": ceil_div(p.K[column], tile_k)}
    once = _once_bytes(p, limits, tile_m, tile_k, trips)
    spill = 2 * limits.accumulator_bits / 8 * (p.M * p.N)[column] * (p.result_on_chip == 0)[column]
    best: Candidates = {"order": np.zeros(fits.shape)}
    for index, order in enumerate(ORDERS):
        found = {
            "left": once["left"] * _refetch(order, trips, "mk"),
            "right": once["right"] * _refetch(order, trips, "kn"),
            "result": once["result"] + spill * (_refetch(order, trips, "mn") - 1),
        }
        total = found["left"] + found["right"] + found["result"]
        if index == 0:
            best |= found | {"total": total}
            continue
        better = total < best["total"]
        for name, values in (found | {"total": total, "order": np.full(fits.shape, float(index))}).items():
            best[name] = np.where(better, values, best[name])
    best["left"] = np.where(fits, best["left"], np.inf)
    del best["total"]
    return best | {"pieces": pieces, "m": tile_m, "n": tile_n, "k": tile_k}


def _once_bytes(p: Products, limits: Limits, tile_m: Int, tile_k: Int, trips: dict[str, Int]) -> dict[str, Float]:
    """Bytes of each operand fetched once; a convolution's tiles overlap by their halo."""
    column = (slice(None), None)
    plain = (p.M * p.K)[column].astype(np.float64)
    windows = window_elements(p, tile_m, tile_k) * trips["m"] * trips["k"]
    left = np.where((p.taps > 1)[column], np.minimum(windows, plain), plain) * p.left_bits[column] / 8
    return {
        "left": left * (p.left_on_chip == 0)[column],
        "right": (p.K * p.N * p.right_bits * (p.right_on_chip == 0))[column] / 8,
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


def _streamed(p: Products, limits: Limits, dataflow: Dataflow) -> Candidates:
    """One piece, a fold at a time; whatever contains the streamed dimension stays only where it happens to fit."""
    rows, cols, sums = limits.rows, limits.cols, limits.accumulator_bits / 8
    left_whole = window_elements(p, p.M, p.K) * p.left_bits / 8
    right_whole, outputs = p.K * p.N * p.right_bits / 8, p.M * p.N
    col_folds = ceil_div(p.N, cols)
    if dataflow == "weight_stationary":
        row_folds, tile_m, tile_k = ceil_div(p.K, rows), p.M, np.minimum(p.K, rows)
        strip = window_elements(p, p.M, tile_k) * p.left_bits / 8
        left = [_again(left_whole > limits.input_bytes, col_folds), _again(strip > limits.input_bytes, col_folds)]
        right = [np.ones_like(row_folds)] * 2
        spilled = [p.M * np.minimum(p.N, cols) * sums > limits.output_bytes, outputs * sums > limits.output_bytes]
        spills = [_again(s, row_folds) - 1 for s in spilled]
    else:
        row_folds, tile_m, tile_k = ceil_div(p.M, rows), np.minimum(p.M, rows), p.K
        strip = window_elements(p, tile_m, p.K) * p.left_bits / 8
        column = p.K * np.minimum(p.N, cols) * p.right_bits / 8
        left = [_again(strip > limits.input_bytes, col_folds), _again(left_whole > limits.input_bytes, col_folds)]
        right = [_again(right_whole > limits.weight_bytes, row_folds), _again(column > limits.weight_bytes, row_folds)]
        spills = [np.zeros_like(row_folds)] * 2
    off_chip = p.result_on_chip == 0
    either = np.ones((len(p), 2), dtype=np.int64)  # the two orders of the folds
    return {
        "left": np.stack(left, axis=1) * (left_whole * (p.left_on_chip == 0))[:, None],
        "right": np.stack(right, axis=1) * (right_whole * (p.right_on_chip == 0))[:, None],
        "result": (outputs * off_chip)[:, None] * (limits.result_bits / 8 + 2 * sums * np.stack(spills, axis=1)),
        "order": either * STREAMED,
        "pieces": either,
        "m": either * tile_m[:, None],
        "n": either * np.minimum(p.N, cols)[:, None],
        "k": either * tile_k[:, None],
    }


def _again(too_large: NDArray[np.bool_], folds: Int) -> Int:
    return np.where(too_large, folds, 1)
