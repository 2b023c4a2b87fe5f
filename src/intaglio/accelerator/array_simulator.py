"""A systolic array, register by register and cycle by cycle: the definition behind `dataflow`'s expressions.

Plain and slow on purpose; for arrays up to about 16 x 16. It computes the actual INT8 products with INT32 sums, so a
schedule that starts a fold one cycle too early gives wrong numbers, not only a wrong count. Registers are read before
they are written, as at a clock's edge.

PE (i, j) works on element t of a fold that starts at cycle s in cycle `s + t + i + j`.

Weight-stationary. The weights of a fold enter at the top, last row first, one row a cycle, and shift down: PE (i, j) in
cycles `s - rows + u`, u = 0 .. rows - 1. Inputs move right, partial sums down, out of the bottom, into an
accumulator beside the array that adds the folds of the reduction.

Output-stationary. Inputs move right, weights down, sums stay. When they are ready, the column's chain shifts them down
and out: PE (i, j) in cycles `d + u`, u = 0 .. rows - 1, with `d = s + T + rows + cols - 2`.

What differs by `overlap`:
- Registers. `serial` and `wavefront` have one for both uses (weights that work and weights that load; sums and drain),
  the others two.
- Control. In `serial` and `double_buffered` one signal tells all PEs: all shift at once, and in `serial` no PE
  multiplies while they shift; in `double_buffered` all switch at once, when the last PE of a fold is done.
  In `wavefront` and `shadow` the control travels with the data: a column shifts `j` cycles after the first (so `d` is
  `s + T + rows - 1 + j`), and row i only while it must: loads u = i .. rows - 1, drains u = 0 .. i - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from intaglio.accelerator.dataflow import TWO_REGISTERS, WITH_THE_DATA, Dataflow, Overlap
from intaglio.errors import UserError

Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Fold:
    """One use of the array: what stays or streams, padded with zeros to the array, and where the result belongs."""

    left: Int32  # WS (T, rows) inputs; OS (rows, T) inputs
    right: Int32  # WS (rows, cols) weights; OS (T, cols) weights
    job: int
    row: int  # first row and column of the result
    col: int

    def temporal(self, dataflow: Dataflow) -> int:
        return self.left.shape[0] if dataflow == "weight_stationary" else self.left.shape[1]


def run_array(
    products: Sequence[tuple[Int8, Int8]], *, rows: int, cols: int, dataflow: Dataflow, overlap: Overlap
) -> tuple[list[Int32], int]:
    """Run `left_MK @ right_KN` for each pair, back to back; returns the INT32 results and the cycles until the last
    output left."""
    if overlap == "none":
        raise UserError(
            "the array has no overlap 'none': that count is SCALE-Sim's, which does not charge the drain of outputs. "
            "Expected serial, double_buffered, wavefront or shadow"
        )
    results = [np.zeros((left.shape[0], right.shape[1]), dtype=np.int32) for left, right in products]
    folds = [f for i, (left, right) in enumerate(products) for f in _folds(i, left, right, rows, cols, dataflow)]
    starts = fold_starts([f.temporal(dataflow) for f in folds], rows, cols, dataflow, overlap)
    run = _run_weight_stationary if dataflow == "weight_stationary" else _run_output_stationary
    return results, run(folds, starts, results, rows, cols, overlap)


def fold_starts(temporals: Sequence[int], rows: int, cols: int, dataflow: Dataflow, overlap: Overlap) -> list[int]:
    """Cycle in which PE (0, 0) begins each fold: as early as the registers allow."""
    first = rows if dataflow == "weight_stationary" else 0
    starts: list[int] = []
    for index, temporal in enumerate(temporals):
        if index == 0:
            starts.append(first)
            continue
        before = temporals[index - 1]
        if overlap == "serial":
            wait = before + 2 * rows + cols - 2
        elif overlap == "double_buffered":
            wait = before + rows + cols - 2
        elif overlap == "wavefront":
            wait = before + rows - 1
        elif dataflow == "weight_stationary":
            wait = max(
                before, rows
            )  # the next weights need `rows` cycles in the chain, which frees as this fold starts
        else:
            wait = max(before, before + rows - temporal)  # the chain must be free when the next sums are ready
        starts.append(starts[-1] + wait)
    return starts


def _folds(job: int, left_MK: Int8, right_KN: Int8, rows: int, cols: int, dataflow: Dataflow) -> list[Fold]:
    M, K = left_MK.shape
    N = right_KN.shape[1]
    left, right = left_MK.astype(np.int32), right_KN.astype(np.int32)
    found = []
    for row in range(0, K if dataflow == "weight_stationary" else M, rows):
        for col in range(0, N, cols):
            if dataflow == "weight_stationary":
                piece = (
                    _pad(left[:, row : row + rows], M, rows),
                    _pad(right[row : row + rows, col : col + cols], rows, cols),
                )
                found.append(Fold(*piece, job=job, row=0, col=col))
            else:
                piece = _pad(left[row : row + rows], rows, K), _pad(right[:, col : col + cols], K, cols)
                found.append(Fold(*piece, job=job, row=row, col=col))
    return found


def _pad(block: Int32, height: int, width: int) -> Int32:
    return np.pad(block, ((0, height - block.shape[0]), (0, width - block.shape[1])))


def _live(
    folds: list[Fold], starts: list[int], cycle: int, rows: int, cols: int, dataflow: Dataflow
) -> list[tuple[Fold, int]]:
    """The folds that load, stream or drain in this cycle; only saves time."""
    return [
        (fold, start)
        for fold, start in zip(folds, starts, strict=True)
        if start - rows <= cycle < start + fold.temporal(dataflow) + 2 * rows + cols
    ]


def _run_weight_stationary(
    folds: list[Fold], starts: list[int], results: list[Int32], rows: int, cols: int, overlap: Overlap
) -> int:
    working, loading, inputs, sums = (np.zeros((rows, cols), dtype=np.int32) for _ in range(4))
    if overlap not in TWO_REGISTERS:
        loading = working
    travels = overlap in WITH_THE_DATA
    i, j = np.indices((rows, cols))
    last = 0
    for cycle in range(starts[-1] + folds[-1].temporal("weight_stationary") + rows + cols - 1):
        live = _live(folds, starts, cycle, rows, cols, "weight_stationary")
        if overlap in TWO_REGISTERS:
            for _, start in live:
                switch = cycle == start + (i + j) * travels
                working[switch] = loading[switch]
        entering = np.zeros(rows, dtype=np.int32)
        for fold, start in live:
            t = cycle - start - np.arange(rows)
            valid = (t >= 0) & (t < fold.left.shape[0])
            entering[valid] = fold.left[t[valid], np.arange(rows)[valid]]
        inputs = np.column_stack([entering, inputs[:, :-1]])
        above = np.vstack([np.zeros(cols, dtype=np.int32), sums[:-1]])
        sums = above + working * inputs
        for fold, start in live:
            u = cycle - (start - rows) - j * travels
            shifts = (u >= i * travels) & (u < rows)
            if overlap == "serial" and shifts.any():
                sums = above  # the column is taken by the weights, so that no PE multiplies
            top = fold.right[np.clip(rows - 1 - u[0], 0, rows - 1), np.arange(cols)]
            shifted = np.vstack([top, loading[:-1]])
            loading[shifts] = shifted[shifts]
        for fold, start in live:
            last = max(last, _collect_ws(fold, cycle - start - (rows - 1), sums[-1], results, cycle))
    return last


def _collect_ws(fold: Fold, first: int, bottom: Int32, results: list[Int32], cycle: int) -> int:
    """Add what leaves the bottom row to the accumulator; returns the count of cycles so far if anything left, else
    0."""
    result = results[fold.job]
    left_something = False
    for j in range(len(bottom)):
        m = first - j
        if 0 <= m < fold.left.shape[0]:
            left_something = True
            if fold.col + j < result.shape[1]:
                result[m, fold.col + j] += bottom[j]
    return cycle + 1 if left_something else 0


def _run_output_stationary(
    folds: list[Fold], starts: list[int], results: list[Int32], rows: int, cols: int, overlap: Overlap
) -> int:
    inputs, weights, sums, drain = (np.zeros((rows, cols), dtype=np.int32) for _ in range(4))
    if overlap not in TWO_REGISTERS:
        drain = sums
    travels = overlap in WITH_THE_DATA
    i, j = np.indices((rows, cols))
    last = 0
    for cycle in range(starts[-1] + folds[-1].temporal("output_stationary") + 2 * rows + cols):
        live = _live(folds, starts, cycle, rows, cols, "output_stationary")
        entering_left, entering_top = np.zeros(rows, dtype=np.int32), np.zeros(cols, dtype=np.int32)
        for fold, start in live:
            for edge, values, axis in ((entering_left, fold.left, 1), (entering_top, fold.right, 0)):
                lane = np.arange(len(edge))
                t = cycle - start - lane
                valid = (t >= 0) & (t < values.shape[axis])
                edge[valid] = values[lane[valid], t[valid]] if axis == 1 else values[t[valid], lane[valid]]
        inputs = np.column_stack([entering_left, inputs[:, :-1]])
        weights = np.vstack([entering_top, weights[:-1]])
        ready = drain.copy()
        draining = [_draining(fold, start, cycle, rows, cols, overlap) for fold, start in live]
        multiplies = overlap != "serial" or not any(shifts.any() for _, shifts in draining)
        for fold, start in live:
            t = cycle - start - i - j
            busy = (t >= 0) & (t < fold.left.shape[1]) & multiplies
            sums[busy] = np.where(t == 0, 0, sums)[busy] + (inputs * weights)[busy]
        for (fold, _), (u, shifts) in zip(live, draining, strict=True):
            last = max(last, _collect_os(fold, u[0], ready[-1], results, rows, cycle))
            shifted = np.vstack([ready[0], ready[:-1]])
            drain[shifts] = shifted[shifts]
        if overlap in TWO_REGISTERS:
            for fold, start in live:
                done = cycle - start == fold.left.shape[1] - 1 + (i + j if travels else rows + cols - 2)
                drain[done] = sums[done]
    return last


def _draining(
    fold: Fold, start: int, cycle: int, rows: int, cols: int, overlap: Overlap
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(which of its `rows` shifts the chain of each PE's column is at, which PEs take the value above)."""
    i, j = np.indices((rows, cols))
    if overlap in WITH_THE_DATA:
        u = cycle - (start + fold.left.shape[1] + rows - 1) - j
        return u, (u >= 0) & (u < i)
    u = np.full((rows, cols), cycle - (start + fold.left.shape[1] + rows + cols - 2))
    return u, (u >= 0) & (u < rows)


def _collect_os(fold: Fold, u: NDArray[np.int64], bottom: Int32, results: list[Int32], rows: int, cycle: int) -> int:
    """Store what leaves the bottom of the drain chain; returns the count of cycles so far if anything left, else 0."""
    result = results[fold.job]
    left_something = False
    for j in range(len(bottom)):
        if 0 <= u[j] < rows:
            left_something = True
            m, n = fold.row + rows - 1 - int(u[j]), fold.col + j
            if m < result.shape[0] and n < result.shape[1]:
                result[m, n] = bottom[j]
    return cycle + 1 if left_something else 0
