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

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from intaglio.accelerator.dataflow import (
    DATAFLOWS,
    Dataflow,
    Float,
    Int,
    Overlap,
    ceil_div,
    cycles_of_cuts,
    spatial_and_temporal,
)
from intaglio.accelerator.energy import PARTS, Prices
from intaglio.accelerator.hardware import Array, Buffer, Hardware
from intaglio.accelerator.limits import Limits, limits_of, require_room, require_sums
from intaglio.accelerator.products import Products
from intaglio.accelerator.tiling import Candidates, Tilings, candidates_of, column_folds, tile_products
from intaglio.accelerator.transposition import transposed_bytes
from intaglio.accelerator.vector_kinds import cycles_per_element
from intaglio.errors import UserError

Columns = dict[str, NDArray]
SHARES = np.array([1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16])  # sub-arrays that work on one product


@dataclass(frozen=True)
class Costs:
    """One row a product, of a single occurrence with its whole batch. Energies in pJ, (products, parts, 3)."""

    dataflow: Int  # index into DATAFLOWS
    swapped: Int
    sub_arrays: Int  # that work on the product; 1 is the whole array
    shares: Int
    pieces: Int
    tile_m: Int
    tile_n: Int
    tile_k: Int
    order: Int
    folds: Int
    mapped_fraction: Float
    compute_cycles: Float
    dram_cycles: Float
    buffer_cycles: Float
    vector_cycles: Float  # of all lanes together
    latency_cycles: Float
    dram_left_bytes: Float
    dram_right_bytes: Float
    dram_result_bytes: Float
    transposed_bytes: Float
    sram_bytes: Float
    energy_pj: Float
    cut_m: Int  # the product is cut in two there, and what is said of tiles is said of the first part; 0: whole
    cut_n: Int

    @property
    def stall_cycles(self) -> Float:
        return self.latency_cycles - self.compute_cycles

    @property
    def dram_bytes(self) -> Float:
        return self.dram_left_bytes + self.dram_right_bytes + self.dram_result_bytes

    def take(self, index: Int) -> Costs:
        return Costs(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


def as_stored(p: Products, bits: int, number: str) -> Products:
    """The widths in which this array runs the products: a float array runs the unquantized step."""
    if number == "float":
        return replace(p, left_bits=np.full_like(p.left_bits, bits), right_bits=np.full_like(p.right_bits, bits))
    return replace(p, left_bits=np.minimum(p.left_bits, bits), right_bits=np.minimum(p.right_bits, bits))


class Tiler:
    """Remembers the tilings of one list of products, by what they depend on."""

    def __init__(self, products: Products):
        self.products = products
        self._candidates: Callable[[Limits, int, str, Dataflow, bool, bool], tuple[Products, Candidates]]
        self._candidates = lru_cache(maxsize=32)(self._all_candidates)
        self.find: Callable[[Limits, int, str, Dataflow, Overlap, bool, bool, int, int], tuple[Products, Tilings, Int]]
        self.find = lru_cache(maxsize=128)(self._find)
        self.parts: Callable[[str, bytes, bytes], Tiler] = lru_cache(maxsize=16)(self._parts)

    def _find(
        self,
        limits: Limits,
        bits: int,
        number: str,
        dataflow: Dataflow,
        overlap: Overlap,
        swapped: bool,
        tiling: bool,
        side: int,
        most_shares: int,
    ) -> tuple[Products, Tilings, Int]:
        """The candidates: product (operands as this array stores them), tiling, and shares of one product."""
        p, found = self._candidates(limits, bits, number, dataflow, swapped, tiling)
        rows, cols = limits.rows // side, limits.cols // side
        tilings = tile_products(p, found, dataflow, overlap, rows, cols, side * side)
        shares = SHARES[most_shares >= SHARES]
        tilings = tilings.take(np.repeat(np.arange(len(tilings.product)), len(shares)))
        return p.take(tilings.product), tilings, np.tile(shares, len(tilings.product) // len(shares))

    def _parts(self, dimension: str, rows: bytes, cuts: bytes) -> Tiler:
        """Of the products `rows`, cut at `cuts` of a dimension: all first parts, then all second ones."""
        p, at = self.products.take(np.frombuffer(rows, dtype=np.int64)), np.frombuffer(cuts, dtype=np.int64)
        return Tiler(replace(p, **{dimension: at}).join(replace(p, **{dimension: getattr(p, dimension) - at})))

    def _all_candidates(
        self, limits: Limits, bits: int, number: str, dataflow: Dataflow, swapped: bool, tiling: bool
    ) -> tuple[Products, Candidates]:
        p = as_stored(self.products, bits, number)
        p = p.transposed() if swapped else p
        return p, candidates_of(p, limits, dataflow, tiling)


def cost_products(
    tiler: Tiler, hardware: Hardware, prices: Prices, dataflows: tuple[Dataflow, ...], names: list[str] | None = None
) -> Costs:
    """The best mapping of every product. Raises `UserError` when a product fits under no allowed mapping, or its sums
    could overflow."""
    limits, array = limits_of(hardware), hardware.array
    labels = names or [f"row {i + 1}" for i in range(len(tiler.products))]
    p = as_stored(tiler.products, array.operand_bits, array.number)
    require_sums(p, labels, array)
    best = _best_mapping(tiler, hardware, prices, dataflows)
    key = best["key"]
    if not np.isfinite(key).all():
        require_room(p, labels, limits, dataflows)
        i = int(np.argmax(~np.isfinite(key)))
        raise UserError(
            f"{labels[i]}: schedule.fused_attention keeps the scores of a block of queries on chip, and not one query "
            "fits into the buffers; what would help: larger buffers, or fused_attention = false"
        )
    if hardware.schedule.cut:
        _cut_in_two(tiler, best, hardware, prices, dataflows)
    traffic = np.array([best.pop(f"traffic{i}") for i in range(6)])
    energy = _energy(tiler.products, best, traffic, prices)
    for name in ("key", "padded", "sums", "typical_pj", "least_cycles"):
        del best[name]
    return Costs(**best, energy_pj=energy, sram_bytes=traffic.sum(axis=0))


def _best_mapping(tiler: Tiler, hardware: Hardware, prices: Prices, dataflows: tuple[Dataflow, ...]) -> Columns:
    """Of every product, run whole."""
    limits = limits_of(hardware)
    best: Columns = {}
    for candidate in _mappings(hardware, dataflows):
        found = _cost_mapping(tiler, hardware, prices, limits, *candidate)
        if not best:
            best = found
            continue
        least = np.minimum(best["least_cycles"], found["least_cycles"])
        better = found["key"] < best["key"]
        for name, values in best.items():
            values[better] = found[name][better]
        best["least_cycles"] = least
    nothing = np.zeros(len(tiler.products), dtype=np.int64)
    return best | {"cut_m": nothing, "cut_n": nothing.copy()}


# What the two parts of a product take together; the rest (dataflow, tiles) is told of the first.
_SUMS = (
    *("padded", "sums", "folds", "compute_cycles", "dram_cycles", "buffer_cycles", "vector_cycles", "latency_cycles"),
    *("dram_left_bytes", "dram_right_bytes", "dram_result_bytes", "transposed_bytes", "typical_pj"),
    *(f"traffic{i}" for i in range(6)),
)


def _cut_in_two(
    tiler: Tiler, best: Columns, hardware: Hardware, prices: Prices, dataflows: tuple[Dataflow, ...]
) -> None:
    """Cut a product along M or N where its two parts, each with a mapping of its own, are better than the whole.

    What fills whole folds in the least time that any mapping allows gains nothing and is left alone.
    `best` changes in place.
    """
    for dimension in ("M", "N"):
        rows, cuts = _cuts(tiler.products, best, hardware.array, dimension)
        if not rows.size:
            continue
        parts = tiler.parts(dimension, rows.tobytes(), cuts.tobytes())
        found = _best_mapping(parts, hardware, prices, dataflows)
        first, second = (
            {name: v[half] for name, v in found.items()} for half in (slice(0, len(rows)), slice(len(rows), None))
        )
        both = first | {name: first[name] + second[name] for name in _SUMS}
        key = _key(hardware.schedule.objective, both["latency_cycles"], both["typical_pj"], np.isfinite(first["key"]))
        pick = _least_of(key, rows)
        pick = pick[key[pick] < best["key"][rows[pick]]]
        for name in best:
            if name not in ("key", "cut_m", "cut_n", "least_cycles"):
                best[name][rows[pick]] = both[name][pick]
        best["key"][rows[pick]] = key[pick]
        for name in ("cut_m", "cut_n"):
            best[name][rows[pick]] = cuts[pick] if name[-1].upper() == dimension else 0


def _cuts(p: Products, best: Columns, array: Array, dimension: str) -> tuple[Int, Int]:
    """(product, where to cut it), sorted by product: after one fold, before the last, at each eighth."""
    length = getattr(p, dimension)
    whole = (p.attention == 0) & ((p.taps == 1) | (dimension == "N"))
    found = []
    for side in {array.rows, array.cols}:
        rows = np.flatnonzero(whole & ((length % side > 0) | (best["latency_cycles"] > best["least_cycles"])))
        folds = ceil_div(length[rows], side)
        for at in (np.ones_like(folds), folds - 1, *(folds * part // 8 for part in range(1, 8))):
            cut = at * side
            inside = (cut > 0) & (cut < length[rows])
            found.append(np.stack([rows[inside], cut[inside]]))
    pairs = np.unique(np.concatenate(found, axis=1), axis=1)
    return pairs[0], pairs[1]


def _mappings(hardware: Hardware, dataflows: tuple[Dataflow, ...]) -> Iterator[tuple[Dataflow, bool, int, int]]:
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
    width, use = (array.operand_bits, array.number), (schedule.temporal_tiling, side, most_shares)
    p, t, shares = tiler.find(limits, *width, dataflow, array.overlap, swapped, *use)
    found = _work(p, t, shares, array, dataflow, side)
    found |= _traffic(p, t, found, array, dataflow)
    found |= _times(p, t, found, hardware, dataflow, array.rows // side)
    allowed = (t.pieces * shares <= found.pop("streams")) & t.feasible
    found["typical_pj"] = _typical_pj(prices, p, found)
    key = _key(schedule.objective, found["latency_cycles"], found["typical_pj"], allowed)
    pick = _least_of(key, t.product)
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
    use = (side * side, rows, cols, dataflow, array.overlap)
    compute = cycles_of_cuts(at_once, streams, cuts, *use)
    uncut = row_folds * ceil_div(on_cols, cols) * p.batch
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
        "uncut_cycles": cycles_of_cuts(uncut, streams, np.ones_like(cuts), *use).astype(np.float64),
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
    once = (
        p.M * p.K * p.left_bits * (p.left_on_chip == 0) * (p.taps == 1)
        + p.K * p.N * p.right_bits * (p.right_on_chip == 0)
        + p.M * p.N * array.result_bits * (p.result_on_chip == 0)
    ) * (p.batch / 8)
    fewest = np.maximum(found.pop("uncut_cycles"), once / a_cycle - first - last)
    latency = np.maximum(np.maximum(np.maximum(compute, buffer), vector), dram - first - last)
    return {
        "compute_cycles": compute,
        "dram_cycles": dram,
        "buffer_cycles": buffer,
        "vector_cycles": vector,
        "latency_cycles": np.ceil(wait + first + latency + last),
        "least_cycles": np.ceil(wait + first + fewest + last),  # of any mapping: one piece, everything fetched once
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


def _least_of(key: Float, product: Int) -> Int:
    """Index of the least key of each product that is named; `product` is sorted."""
    starts = np.flatnonzero(np.diff(product, prepend=-1))
    if len(starts) == len(key):
        return starts
    least = np.repeat(np.minimum.reduceat(key, starts), np.diff(starts, append=len(key)))
    at_least = np.flatnonzero(key == least)
    return at_least[np.flatnonzero(np.diff(product[at_least], prepend=-1))]


def _key(objective: str, latency: Float, typical_pj: Float, allowed: NDArray[np.bool_]) -> Float:
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


def _energy(p: Products, found: Columns, traffic: Float, prices: Prices) -> Float:
    """Energy without leakage, (products, parts, 3), of the chosen mappings."""
    macs, sums, padded, transposed = (
        v[:, None] for v in (p.macs_once, found["sums"], found["padded"], found["transposed_bytes"])
    )
    dram_bytes = found["dram_left_bytes"] + found["dram_right_bytes"] + found["dram_result_bytes"]
    energy = np.zeros((len(p), len(PARTS), 3))
    energy[:, 0] = macs * prices.mac_pj + sums * prices.accumulate_pj
    energy[:, 1] = macs * prices.register_pj + padded * prices.idle_pe_pj + transposed * prices.transpose_pj_per_byte
    energy[:, 2] = traffic[:3].T @ prices.sram_read_pj_per_byte + traffic[3:].T @ prices.sram_write_pj_per_byte
    energy[:, 3] = dram_bytes[:, None] * prices.dram_pj_per_byte
    return energy
