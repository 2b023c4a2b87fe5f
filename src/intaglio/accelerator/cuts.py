"""A product run as two, cut along M or N, each part with a mapping of its own.

One mapping is rarely best for what fills whole folds and for what remains. The scheduler tries a few cuts; one whose
parts could not win with one piece each and every byte fetched once is not tried.
"""

from __future__ import annotations

import numpy as np

from intaglio.accelerator.dataflow import Dataflow, Float, Int, ceil_div, cycles_of_cuts, spatial_and_temporal
from intaglio.accelerator.energy import Prices
from intaglio.accelerator.hardware import Array, Hardware
from intaglio.accelerator.mapping import SHARES, Columns, Tiler, as_stored, best_mapping, key_of, least_of, mappings
from intaglio.accelerator.products import Products

# What the two parts of a product take together; the rest (dataflow, tiles) is told of the first.
_SUMS = (
    *("padded", "sums", "folds", "compute_cycles", "dram_cycles", "buffer_cycles", "vector_cycles", "latency_cycles"),
    *("dram_left_bytes", "dram_right_bytes", "dram_result_bytes", "transposed_bytes", "typical_pj"),
    *(f"traffic{i}" for i in range(6)),
)


def cut_in_two(
    tiler: Tiler, best: Columns, hardware: Hardware, prices: Prices, dataflows: tuple[Dataflow, ...]
) -> None:
    """Cut a product along M or N where its two parts, each with a mapping of its own, are better than the whole.

    `best` changes in place.
    """
    design = (hardware, prices, dataflows)
    for dimension in ("M", "N"):
        rows, cuts = _cuts(tiler.products, hardware.array, dimension)
        parts = tiler.products.cut(dimension, rows, cuts)
        if hardware.schedule.objective == "latency":
            stored = as_stored(parts, hardware.array.operand_bits, hardware.array.number)
            least = _least_cycles(stored, hardware, dataflows).reshape(2, -1).sum(axis=0)
            hopeful = least < best["latency_cycles"][rows]
            rows, cuts = rows[hopeful], cuts[hopeful]
        if not rows.size:
            continue
        found = best_mapping(tiler.parts(dimension, rows, cuts), *design)
        both = _sum_of_parts(found, hardware)
        pick = least_of(both["key"], rows)
        pick = pick[both["key"][pick] < best["key"][rows[pick]]]
        rows, cuts, both = rows[pick], cuts[pick], {name: v[pick] for name, v in both.items()}
        both |= {"cut_m": cuts * (dimension == "M"), "cut_n": cuts * (dimension == "N")}
        for name, values in best.items():
            values[rows] = both[name]


def _sum_of_parts(found: Columns, hardware: Hardware) -> Columns:
    """Of first parts, then second parts: what they take together."""
    half = len(found["key"]) // 2
    first, second = ({n: v[part] for n, v in found.items()} for part in (slice(0, half), slice(half, None)))
    both = first | {name: first[name] + second[name] for name in _SUMS}
    allowed = np.isfinite(first["key"]) & np.isfinite(second["key"])
    key = key_of(hardware.schedule.objective, both["latency_cycles"], both["typical_pj"], allowed)
    return both | {"key": key}


def _cuts(p: Products, array: Array, dimension: str) -> tuple[Int, Int]:
    """(product, where to cut it), sorted by product: after one fold, before the last, at each sixteenth."""
    length = getattr(p, dimension)
    rows = np.flatnonzero((p.attention == 0) & ((p.taps == 1) | (dimension == "N")))
    found = []
    for side in {array.rows, array.cols}:
        folds = ceil_div(length[rows], side)
        few = length[rows] * (folds < 16)
        between = [folds * part // 16 * side for part in range(1, 16)] + [few * part // 8 for part in range(1, 8)]
        for cut in (np.full_like(folds, side), (folds - 1) * side, *between):
            inside = (cut > 0) & (cut < length[rows])
            found.append(np.stack([rows[inside], cut[inside]]))
    pairs = np.unique(np.concatenate(found, axis=1), axis=1)
    return pairs[0], pairs[1]


def _least_cycles(p: Products, hardware: Hardware, dataflows: tuple[Dataflow, ...]) -> Float:
    """No mapping takes less: one piece, the whole operands fetched once, ports and lanes never in the way."""
    array, a_cycle = hardware.array, hardware.dram_bytes_per_cycle
    least = np.full(len(p), np.inf)
    for dataflow, swapped, side, shares in mappings(hardware, dataflows):
        q = p.transposed() if swapped else p
        held = np.minimum(q.K * q.N, array.pes) * q.right_bits / 8 * (q.right_on_chip == 0)
        first = held / a_cycle * (dataflow == "weight_stationary")
        rows, cols = array.rows // side, array.cols // side
        on_rows, on_cols, streams = spatial_and_temporal(q.M, q.N, q.K, dataflow)
        folds = ceil_div(on_rows, rows) * ceil_div(on_cols, cols) * q.batch
        for share in SHARES[shares >= SHARES]:
            use = (side * side, rows, cols, dataflow, array.overlap)
            least = np.minimum(least, first + cycles_of_cuts(folds, streams, np.minimum(share, streams), *use))
    left = p.M * p.K * p.left_bits * (p.left_on_chip == 0) * (p.taps == 1)
    right = p.K * p.N * p.right_bits * (p.right_on_chip == 0)
    result = p.M * p.N * array.result_bits * (p.result_on_chip == 0)
    dram = (left + right + result) * (p.batch / 8) / a_cycle
    last = np.minimum(result, array.pes * array.result_bits) / 8 / a_cycle
    wait = hardware.dram.latency_ns * array.clock_mhz / 1e3 * (dram > 0)
    return np.maximum(least + last * hardware.buffers.double_buffered, dram) + wait
