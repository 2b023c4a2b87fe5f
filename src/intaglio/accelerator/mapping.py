"""The cost of every product on one design: each mapping that the hardware allows is costed, the scheduler keeps the
best.

A mapping is a dataflow, which operand is stationary (`swapped`), the tiles and the pieces of the streamed dimension,
and how the array is used: whole, or as sub-arrays, each product shared by `shares` of them along the streamed
dimension.

    double-buffered   DRAM latency + first + max(array, DRAM - first - last, each buffer's port, lanes) + last
    single buffers    DRAM latency + DRAM + max(array, each buffer's port, lanes)

`first` is what must have arrived before the array can begin (WS: the stationary operand, as much of it as the array
holds), `last` the store of the last results, as many as the array holds. The lanes requantize, and transpose
where an edge has no transposer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intaglio.accelerator.dataflow import (
    DATAFLOWS,
    Dataflow,
    Float,
    Int,
    ceil_div,
    cycles_of_cuts,
    spatial_and_temporal,
)
from intaglio.accelerator.energy import Prices
from intaglio.accelerator.hardware import Array, Buffer, Hardware, Schedule
from intaglio.accelerator.limits import Limits, limits_of
from intaglio.accelerator.products import Products
from intaglio.accelerator.tiling import Candidates, Tilings, candidates_of, column_folds, tile_products
from intaglio.accelerator.transposition import transposed_bytes
from intaglio.accelerator.vector_kinds import cycles_per_element

Columns = dict[str, NDArray]
SHARES = np.array([1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16])  # sub-arrays that work on one product


def as_stored(p: Products, bits: int, number: str) -> Products:
    """The widths in which this array runs the products: a float array runs the unquantized step."""
    if number == "float":
        return replace(p, left_bits=np.full_like(p.left_bits, bits), right_bits=np.full_like(p.right_bits, bits))
    return replace(p, left_bits=np.minimum(p.left_bits, bits), right_bits=np.minimum(p.right_bits, bits))


class Tiler:
    """Remembers the tilings of one list of products, by what they depend on."""

    def __init__(self, products: Products):
        self.products = products
        self._candidates: dict[Any, tuple[Products, Candidates]] = {}
        self._found: dict[Any, tuple[Products, Tilings, Int]] = {}
        self._parts: dict[Any, Tiler] = {}

    def find(
        self,
        limits: Limits,
        array: Array,
        schedule: Schedule,
        dataflow: Dataflow,
        swapped: bool,
        side: int,
        most: int,
    ) -> tuple[Products, Tilings, Int]:
        """The candidates: product (operands as this array stores them), tiling, and shares of one product.

        Args:
            side: sub-arrays a side. most: sub-arrays that work on one product.
        """
        of_candidates = (limits, array.operand_bits, array.number, schedule.temporal_tiling, dataflow, swapped)
        key = (*of_candidates, array.overlap, side, most)
        if key not in self._found:
            if of_candidates not in self._candidates:
                p = as_stored(self.products, array.operand_bits, array.number)
                p = p.transposed() if swapped else p
                _bounded(self._candidates, 8)[of_candidates] = (p, candidates_of(p, limits, dataflow, key[3]))
            p, found = self._candidates[of_candidates]
            use = (dataflow, array.overlap, limits.rows // side, limits.cols // side, side * side)
            kept = [tile_products(p, found, *use, s) for s in {1, most}]
            tilings = kept[0] if len(kept) == 1 else kept[0].join(kept[1])
            counts = SHARES[most >= SHARES]
            tilings = tilings.take(np.repeat(np.argsort(tilings.product, kind="stable"), len(counts)))
            each = np.tile(counts, len(tilings.product) // len(counts))
            _bounded(self._found, 64)[key] = (p.take(tilings.product), tilings, each)
        return self._found[key]

    def parts(self, dimension: str, rows: Int, cuts: Int) -> Tiler:
        """Of the products `rows`, cut at `cuts` of a dimension: all first parts, then all second ones."""
        key = (dimension, rows.tobytes(), cuts.tobytes())
        if key not in self._parts:
            _bounded(self._parts, 4)[key] = Tiler(self.products.cut(dimension, rows, cuts))
        return self._parts[key]


def _bounded(cache: dict[Any, Any], most: int) -> dict[Any, Any]:
    """The cache, with room for one entry more: the oldest go."""
    while len(cache) >= most:
        del cache[next(iter(cache))]
    return cache


def best_mapping(tiler: Tiler, hardware: Hardware, prices: Prices, dataflows: tuple[Dataflow, ...]) -> Columns:
    """Of every product, run whole."""
    limits = limits_of(hardware)
    best: Columns = {}
    for candidate in mappings(hardware, dataflows):
        found = _cost_mapping(tiler, hardware, prices, limits, *candidate)
        if not best:
            best = found
            continue
        better = found["key"] < best["key"]
        for name, values in best.items():
            values[better] = found[name][better]
    nothing = np.zeros(len(tiler.products), dtype=np.int64)
    return best | {"cut_m": nothing, "cut_n": nothing.copy()}


def mappings(hardware: Hardware, dataflows: tuple[Dataflow, ...]) -> Iterator[tuple[Dataflow, bool, int, int]]:
    """(dataflow, swapped, sub-arrays a side, most shares of a product) that this hardware may choose from."""
    side, schedule = hardware.array.partition_side, hardware.schedule
    for dataflow in dataflows:
        for swapped in (False, True) if schedule.operand_swap else (False,):
            yield dataflow, swapped, 1, 1
            if side > 1:
                yield dataflow, swapped, side, side * side if schedule.split else 1


def _cost_mapping(
    tiler: Tiler,
    hardware: Hardware,
    prices: Prices,
    limits: Limits,
    dataflow: Dataflow,
    swapped: bool,
    side: int,
    most_shares: int,
) -> Columns:
    """One mapping for all products: the best tiles and shares of each."""
    array, schedule = hardware.array, hardware.schedule
    p, t, shares = tiler.find(limits, array, schedule, dataflow, swapped, side, most_shares)
    found = _work(p, t, shares, array, dataflow, side)
    found |= _traffic(p, t, found, array, dataflow)
    found |= _times(p, t, found, hardware, dataflow, array.rows // side)
    allowed = (t.pieces * shares <= found.pop("streams")) & t.feasible
    found["typical_pj"] = _typical_pj(prices, p, found)
    key = key_of(schedule.objective, found["latency_cycles"], found["typical_pj"], allowed)
    pick = least_of(key, t.product)
    ones = np.ones(len(pick), dtype=np.int64)
    plain = (p.taps == 1) & (p.attention == 0)
    found |= {"key": key, "swapped": plain * int(swapped), "pieces": t.pieces, "shares": shares}
    found |= {name: getattr(t, name) for name in ("tile_m", "tile_n", "tile_k", "order")}
    for name in ("row_folds", "col_folds", "cuts"):
        del found[name]
    chosen = {"dataflow": ones * DATAFLOWS.index(dataflow), "sub_arrays": ones * side * side}
    return {name: values[pick] for name, values in found.items()} | chosen


def _work(p: Products, t: Tilings, shares: Int, array: Array, dataflow: Dataflow, side: int) -> Columns:
    """What the array does: folds, padding, cycles without a stall."""
    rows, cols = array.rows // side, array.cols // side
    on_rows, on_cols, streams = spatial_and_temporal(p.M, p.N, p.K, dataflow)
    cuts = t.pieces * shares
    row_folds, col_folds = ceil_div(on_rows, rows), column_folds(on_cols, t.tile_n, cols)
    at_once = row_folds * col_folds * p.batch
    compute = cycles_of_cuts(at_once, streams, cuts, side * side, rows, cols, dataflow, array.overlap)
    if array.overlap == "none":
        compute = compute - (p.batch - 1)  # SCALE-Sim takes one cycle off every run
    covered = at_once.astype(np.float64) * streams * (rows * cols)
    return {
        "row_folds": row_folds,
        "col_folds": col_folds,
        "cuts": cuts,
        "streams": streams,
        "folds": at_once * cuts,
        "mapped_fraction": p.macs_once / covered,
        "padded": covered - p.macs_once,
        "compute_cycles": compute.astype(np.float64),
    }


def _traffic(p: Products, t: Tilings, work: Columns, array: Array, dataflow: Dataflow) -> Columns:
    """Bytes with the whole batch: reads of the three buffers (0, 1, 2), their writes (3, 4, 5), DRAM, transposers."""
    stationary = dataflow == "weight_stationary"
    batch = p.batch.astype(np.float64)
    sums = batch * p.M * p.N * (work["row_folds"] if stationary else work["cuts"])
    left = batch * p.M * p.K * work["col_folds"] * p.left_bits / 8
    right = batch * p.K * p.N * (work["cuts"] if stationary else work["row_folds"]) * p.right_bits / 8
    dram = {"left": t.left_bytes * batch, "right": t.right_bytes * batch, "result": t.result_bytes * batch}
    on_edge, by_lanes = transposed_bytes(p, left, right, array.transposers, dataflow)
    return {
        "traffic0": left + by_lanes["left"],
        "traffic1": right + by_lanes["right"],
        "traffic2": sums * array.accumulator_bits / 8,
        "traffic3": dram["left"] + by_lanes["left"],
        "traffic4": dram["right"] + by_lanes["right"],
        "traffic5": sums * array.accumulator_bits / 8,
        "sums": sums,
        "transposed_bytes": on_edge,
        "by_lanes": by_lanes["left"] * 8 / p.left_bits + by_lanes["right"] * 8 / p.right_bits,  # elements
        **{f"dram_{name}_bytes": values for name, values in dram.items()},
    }


def _times(p: Products, t: Tilings, found: Columns, hardware: Hardware, dataflow: Dataflow, rows: int) -> Columns:
    """Cycles of array, DRAM, ports and lanes, and what they make together."""
    array = hardware.array
    a_cycle = hardware.dram_bytes_per_cycle
    dram_bytes = found["dram_left_bytes"] + found["dram_right_bytes"] + found["dram_result_bytes"]
    dram = dram_bytes / a_cycle
    buffer = _buffer_cycles(hardware, [found[f"traffic{i}"] for i in range(6)])
    lane_cycles = p.M * p.N * p.batch * cycles_per_element(hardware, "requantize")
    lane_cycles = lane_cycles + found.pop("by_lanes") * cycles_per_element(hardware, "transpose")
    vector = lane_cycles / hardware.vector.lanes
    compute = found["compute_cycles"] + rows * (found["transposed_bytes"] > 0)  # a transposer fills before it gives
    wait = hardware.dram.latency_ns * array.clock_mhz / 1e3 * (dram_bytes > 0)
    if hardware.buffers.double_buffered:
        stationary = np.minimum(p.K * p.N, array.pes) * p.right_bits / 8 * (dataflow == "weight_stationary")
        first = stationary * (p.right_on_chip == 0) / a_cycle
        last = np.minimum(p.M * p.N, array.pes) * array.result_bits / 8 * (p.result_on_chip == 0) / a_cycle
    else:
        first, last = dram, 0 * dram
    latency = np.maximum(np.maximum(np.maximum(compute, buffer), vector), dram - first - last)
    return {
        "compute_cycles": compute,
        "dram_cycles": dram,
        "buffer_cycles": buffer,
        "vector_cycles": vector,
        "latency_cycles": np.ceil(wait + first + latency + last),
    }


def _buffer_cycles(hardware: Hardware, traffic: list[Float]) -> Float:
    """Cycles that the busiest buffer port needs."""
    buffers: tuple[Buffer, ...] = (hardware.buffers.input, hardware.buffers.weight, hardware.buffers.output)
    busy = np.zeros(len(traffic[0]))
    for index, buffer in enumerate(buffers):
        read, write = traffic[index], traffic[index + 3]
        on_port = np.maximum(read, write) if buffer.ports == 2 else read + write
        busy = np.maximum(busy, on_port / buffer.bandwidth_bytes_per_cycle)
    return busy


def least_of(key: Float, product: Int) -> Int:
    """Index of the least key of each product that is named; `product` is sorted."""
    starts = np.flatnonzero(np.diff(product, prepend=-1))
    if len(starts) == len(key):
        return starts
    least = np.repeat(np.minimum.reduceat(key, starts), np.diff(starts, append=len(key)))
    at_least = np.flatnonzero(key == least)
    return at_least[np.flatnonzero(np.diff(product[at_least], prepend=-1))]


def key_of(objective: str, latency: Float, typical_pj: Float, allowed: NDArray[np.bool_]) -> Float:
    """What the scheduler minimises; between equal latencies, the less energy."""
    if objective == "energy":
        key = typical_pj
    elif objective == "energy_delay":
        key = typical_pj * latency
    else:
        key = latency + 0.5 * typical_pj / (1 + typical_pj)  # latencies are whole cycles
    return np.where(allowed, key, np.inf)


def _typical_pj(prices: Prices, p: Products, found: Columns) -> Float:
    """Typical energy, leakage of its time included: for the scheduler's choice."""
    sram = np.concatenate([prices.sram_read_pj_per_byte[:, 1], prices.sram_write_pj_per_byte[:, 1]])
    dram_bytes = found["dram_left_bytes"] + found["dram_right_bytes"] + found["dram_result_bytes"]
    return (
        p.macs_once * (prices.mac_pj[1] + prices.register_pj[1])
        + found["sums"] * prices.accumulate_pj[1]
        + found["padded"] * prices.idle_pe_pj[1]
        + found["transposed_bytes"] * prices.transpose_pj_per_byte[1]
        + sum(sram[i] * found[f"traffic{i}"] for i in range(6))
        + dram_bytes * prices.dram_pj_per_byte[1]
        + found["latency_cycles"] * prices.leakage_pj_per_cycle[1]
    )
