"""Cycles of a product on a systolic array, in closed form; vectorised, no memory stalls.

A product `(M, K) @ (K, N)` is cut into folds, each a full use of the array for `temporal` cycles:

    dataflow            on the rows   on the columns   streams (temporal)
    weight_stationary   K             N                M
    output_stationary   M             N                K

    folds = ceil(on the rows / rows) * ceil(on the columns / cols)

`overlap` says what a fold hides behind its neighbours. `array_simulator` is the definition of the last three, and the
expressions below equal its count exactly; `docs/accelerator.md` derives and draws them.

    none             SCALE-Sim v3: WS folds * (2 rows + cols + T - 2) - 1, OS folds * (rows + cols + T - 2) - 1
    serial           folds * (2 rows + cols + T - 2): every load (WS) and every drain (OS) is paid
    double_buffered  folds * (rows + cols + T - 2) + rows: a second register a PE hides load and drain, not the skew
    shadow           (folds - 1) * max(T, rows) + 2 rows + cols + T - 2: the switch travels with the data, so the
    skew hides too
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Dataflow = Literal["weight_stationary", "output_stationary"]
Overlap = Literal["none", "serial", "double_buffered", "shadow"]
DATAFLOWS: tuple[Dataflow, ...] = get_args(Dataflow)
OVERLAPS: tuple[Overlap, ...] = get_args(Overlap)

Int = NDArray[np.int64]


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


def cycles_of_folds(
    folds: ArrayLike, temporal: ArrayLike, rows: int, cols: int, dataflow: Dataflow, overlap: Overlap
) -> Int:
    """Cycles of `folds` equal folds of `temporal` cycles, back to back; zero folds take zero."""
    folds, temporal = np.asarray(folds, dtype=np.int64), np.asarray(temporal, dtype=np.int64)
    skew = rows + cols - 2
    if overlap == "none":
        load = rows if dataflow == "weight_stationary" else 0
        cycles = folds * (load + skew + temporal) - 1
    elif overlap == "serial":
        cycles = folds * (rows + skew + temporal)
    elif overlap == "double_buffered":
        cycles = folds * (skew + temporal) + rows
    else:
        cycles = (folds - 1) * np.maximum(temporal, rows) + rows + skew + temporal
    return np.where(folds > 0, cycles, 0)


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


def mapped_fraction(
    M: ArrayLike, N: ArrayLike, K: ArrayLike, rows: int, cols: int, dataflow: Dataflow
) -> NDArray[np.float64]:
    """Spatial utilization: PEs that hold work in a fold, over all PEs, mean over the folds."""
    on_rows, on_cols, _ = spatial_and_temporal(M, N, K, dataflow)
    return (on_rows * on_cols) / (ceil_div(on_rows, rows) * rows * ceil_div(on_cols, cols) * cols)
