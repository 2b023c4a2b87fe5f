"""Cycles of a product on a systolic array, in closed form; vectorised, no memory stalls.

A product `(M, K) @ (K, N)` is cut into folds, each a full use of the array for `temporal` cycles:

    dataflow            on the rows   on the columns   streams (temporal)
    weight_stationary   K             N                M
    output_stationary   M             N                K

    folds = ceil(on the rows / rows) * ceil(on the columns / cols)

`overlap` says what a fold hides behind its neighbours. Four are an array's: two choices of registers by two of control.
`array_simulator` is their definition, and the expressions equal its count exactly, for any shape. One cycle earlier is
wrong in every one of them. F folds of T cycles take

    2 rows + cols + T - 2 + (F - 1) * wait

    overlap          registers   control           wait, from the start of a fold to that of the next
    serial           one         for all PEs       T + 2 rows + cols - 2   in a cycle all load or drain, or all multiply
    double_buffered  two         for all PEs       T + rows + cols - 2     all switch to the second register at once
    wavefront        one         with the data     T + rows - 1            a PE loads or drains as soon as it is free
    shadow           two         with the data     max(T, rows)            the chain is the limit, or the stream

`none` is SCALE-Sim v3's count and no array: WS F * (2 rows + cols + T - 2) - 1, OS F * (rows + cols + T - 2) - 1.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Dataflow = Literal["weight_stationary", "output_stationary"]
ArrayOverlap = Literal["serial", "double_buffered", "wavefront", "shadow"]
Overlap = Literal["none", "serial", "double_buffered", "wavefront", "shadow"]
DATAFLOWS: tuple[Dataflow, ...] = get_args(Dataflow)
ARRAY_OVERLAPS: tuple[ArrayOverlap, ...] = get_args(ArrayOverlap)  # slowest first
OVERLAPS: tuple[Overlap, ...] = get_args(Overlap)
TWO_REGISTERS: tuple[Overlap, ...] = ("double_buffered", "shadow")
WITH_THE_DATA: tuple[Overlap, ...] = ("wavefront", "shadow")  # control travels; otherwise one signal for all PEs

Int = NDArray[np.int64]
Float = NDArray[np.float64]


def ceil_div(dividend: ArrayLike, divisor: ArrayLike) -> Int:
    """Ceiling of an integer quotient, elementwise."""
    return -(-np.asarray(dividend, dtype=np.int64) // np.asarray(divisor, dtype=np.int64))


def spatial_and_temporal(M: ArrayLike, N: ArrayLike, K: ArrayLike, dataflow: Dataflow) -> tuple[Int, Int, Int]:
    """What lies on the rows, on the columns, and what streams."""
    M, N, K = (np.asarray(v, dtype=np.int64) for v in (M, N, K))
    return (K, N, M) if dataflow == "weight_stationary" else (M, N, K)


def fold_count(M: ArrayLike, N: ArrayLike, K: ArrayLike, rows: int, cols: int, dataflow: Dataflow) -> Int:
    """Number of folds of one product."""
    on_rows, on_cols, _ = spatial_and_temporal(M, N, K, dataflow)
    return ceil_div(on_rows, rows) * ceil_div(on_cols, cols)


def fold_wait(temporal: ArrayLike, rows: int, cols: int, overlap: Overlap) -> Int:
    """Cycles from the start of a fold to that of the next, both of `temporal` cycles."""
    temporal = np.asarray(temporal, dtype=np.int64)
    if overlap == "serial":
        return temporal + 2 * rows + cols - 2
    if overlap == "double_buffered":
        return temporal + rows + cols - 2
    if overlap == "wavefront":
        return temporal + rows - 1
    return np.maximum(temporal, rows)


def cycles_of_folds(
    folds: ArrayLike, temporal: ArrayLike, rows: int, cols: int, dataflow: Dataflow, overlap: Overlap
) -> Int:
    """Cycles of `folds` equal folds of `temporal` cycles, back to back; zero folds take zero."""
    folds, temporal = np.asarray(folds, dtype=np.int64), np.asarray(temporal, dtype=np.int64)
    if overlap == "none":
        load = rows if dataflow == "weight_stationary" else 0
        cycles = folds * (load + rows + cols - 2 + temporal) - 1
    else:
        cycles = 2 * rows + cols + temporal - 2 + (folds - 1) * fold_wait(temporal, rows, cols, overlap)
    return np.where(folds > 0, cycles, 0)


def cycles_of_cuts(
    folds: ArrayLike,
    streams: ArrayLike,
    cuts: ArrayLike,
    sub_arrays: int,
    rows: int,
    cols: int,
    dataflow: Dataflow,
    overlap: Overlap,
) -> Int:
    """Cycles of `folds` folds whose streamed dimension is cut into `cuts` lengths that differ by one at most.

    The `sub_arrays` arrays of rows x cols take the folds in turn, the shorter lengths first.
    """
    folds, cuts = np.asarray(folds, dtype=np.int64), np.asarray(cuts, dtype=np.int64)
    shorter, longer = np.divmod(np.asarray(streams, dtype=np.int64), cuts)
    rounds, long_rounds = ceil_div(folds * cuts, sub_arrays), ceil_div(folds * longer, sub_arrays)
    short_rounds = rounds - long_rounds
    if overlap == "none":
        load = rows if dataflow == "weight_stationary" else 0
        return rounds * (load + rows + cols - 2 + shorter) + long_rounds - 1
    last = shorter + (long_rounds > 0)
    waits = short_rounds * fold_wait(shorter, rows, cols, overlap) + long_rounds * fold_wait(
        shorter + 1, rows, cols, overlap
    )
    return waits - fold_wait(last, rows, cols, overlap) + 2 * rows + cols + last - 2


def compute_cycles(
    M: ArrayLike,
    N: ArrayLike,
    K: ArrayLike,
    *,
    rows: int,
    cols: int,
    dataflow: Dataflow,
    overlap: Overlap,
) -> Int:
    """Cycles of one whole product on the whole array: no tiling of the streamed dimension, no stalls."""
    *_, temporal = spatial_and_temporal(M, N, K, dataflow)
    folds = fold_count(M, N, K, rows, cols, dataflow)
    return cycles_of_folds(folds, temporal, rows, cols, dataflow, overlap)
