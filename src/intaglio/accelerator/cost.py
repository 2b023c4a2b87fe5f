"""The cost of every product on one design: each mapping that the hardware allows is costed, the scheduler keeps the
best.

A mapping is a dataflow, which operand is stationary (`swapped`), how many pieces the streamed dimension is cut into,
and
how the array is used: whole, or as sub-arrays, each product shared by `shares` of them along the streamed dimension.

    latency = max(array, DRAM, each buffer's port, requantization) + DRAM latency
    stall = latency - array
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from intaglio.accelerator.constants import table
from intaglio.accelerator.dataflow import DATAFLOWS, Dataflow, Int, ceil_div, cycles_of_folds, spatial_and_temporal
from intaglio.accelerator.energy import PARTS, Prices
from intaglio.accelerator.hardware import Buffer, Hardware
from intaglio.accelerator.tiling import Limits, Tilings, require_feasible, tile_products
from intaglio.accelerator.workload import Products

Float = NDArray[np.float64]


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
    vector_cycles: Float
    latency_cycles: Float
    dram_left_bytes: Float
    dram_right_bytes: Float
    dram_result_bytes: Float
    sram_bytes: Float
    energy_pj: Float

    @property
    def stall_cycles(self) -> Float:
        return self.latency_cycles - self.compute_cycles

    @property
    def dram_bytes(self) -> Float:
        return self.dram_left_bytes + self.dram_right_bytes + self.dram_result_bytes

    def take(self, index: Int) -> Costs:
        return Costs(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


def limits_of(hardware: Hardware) -> Limits:
    """Usable buffer bytes and array size as tiling needs them."""
    b, array = hardware.buffers, hardware.array
    usable = 2 if b.double_buffered else 1
    return Limits(
        b.input.size_bytes / usable,
        b.weight.size_bytes / usable,
        b.output.size_bytes / usable,
        array.rows,
        array.cols,
        array.accumulator_bits,
        array.result_bits,
    )


class Tiler:
    """Remembers tilings of one list of products: they do not depend on overlap, partition, clock or bandwidth."""

    def __init__(self, products: Products):
        self.products = products
        self.find: Callable[[Limits, int, str, Dataflow, bool, bool, int], tuple[Products, Tilings, Int]]
        self.find = lru_cache(maxsize=256)(self._find)
        self._tile: Callable[[Limits, int, str, Dataflow, bool, bool], tuple[Products, Tilings]]
        self._tile = lru_cache(maxsize=64)(self._tile_once)

    def _find(
        self, limits: Limits, bits: int, number: str, dataflow: Dataflow, swapped: bool, tiling: bool, sub_arrays: int
    ) -> tuple[Products, Tilings, Int]:
        """The candidates: product (operands as this array stores them), tiling, and shares of one product."""
        p, tilings = self._tile(limits, bits, number, dataflow, swapped, tiling)
        shares = 2 ** np.arange(sub_arrays.bit_length())
        each = np.repeat(np.arange(len(tilings.product)), len(shares))
        tilings = Tilings(**{f.name: getattr(tilings, f.name)[each] for f in fields(tilings)})
        return p.take(tilings.product), tilings, np.tile(shares, len(each) // len(shares))

    def _tile_once(
        self, limits: Limits, bits: int, number: str, dataflow: Dataflow, swapped: bool, tiling: bool
    ) -> tuple[Products, Tilings]:
        p = self.products
        if number == "float":  # runs the unquantized step
            p = replace(p, left_bits=np.full_like(p.left_bits, bits), right_bits=np.full_like(p.right_bits, bits))
        else:
            p = replace(p, left_bits=np.minimum(p.left_bits, bits), right_bits=np.minimum(p.right_bits, bits))
        p = p.transposed() if swapped else p
        return p, tile_products(p, limits, dataflow, tiling)


def cost_products(
    tiler: Tiler, hardware: Hardware, prices: Prices, dataflows: tuple[Dataflow, ...], names: list[str] | None = None
) -> Costs:
    """The best mapping of every product. Raises `UserError` when a product fits under no allowed mapping."""
    limits = limits_of(hardware)
    best: dict[str, NDArray] | None = None
    for candidate in _mappings(hardware, dataflows):
        found = _cost_mapping(tiler, hardware, prices, limits, *candidate)
        if best is None:
            best = found
            continue
        better = found["key"] < best["key"]
        for name, values in best.items():
            values[better] = found[name][better]
    assert best is not None
    if not np.isfinite(best["key"]).all():
        p = tiler.products
        bits = hardware.array.operand_bits
        p = replace(p, left_bits=np.minimum(p.left_bits, bits), right_bits=np.minimum(p.right_bits, bits))
        labels = names or [f"row {i + 1}" for i in range(len(p))]
        require_feasible(p, labels, limits, dataflows)
    del best["key"]
    traffic = np.array([best.pop(f"traffic{i}") for i in range(6)])
    dram_bytes = best["dram_left_bytes"] + best["dram_right_bytes"] + best["dram_result_bytes"]
    energy = _energy_at_work(tiler.products, best.pop("padded"), traffic, dram_bytes, prices)
    return Costs(**best, sram_bytes=traffic.sum(axis=0), energy_pj=energy)


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
) -> dict[str, NDArray]:
    """One mapping for all products: the best pieces and shares of each."""
    array, schedule = hardware.array, hardware.schedule
    width = (array.operand_bits, array.number)
    p, t, shares = tiler.find(limits, *width, dataflow, swapped, schedule.temporal_tiling, most_shares)
    rows, cols = array.rows // side, array.cols // side
    on_rows, on_cols, streams = spatial_and_temporal(p.M, p.N, p.K, dataflow)
    cuts = t.pieces * shares
    row_folds, col_folds = ceil_div(on_rows, rows), ceil_div(on_cols, cols)
    folds = row_folds * col_folds * cuts * p.batch
    length = ceil_div(streams, cuts)
    compute = cycles_of_folds(ceil_div(folds, side * side), length, rows, cols, dataflow, array.overlap)
    if array.overlap == "none":
        compute = compute - (p.batch - 1)  # SCALE-Sim takes one cycle off every run
    traffic = _buffer_traffic(p, t, dataflow, row_folds, col_folds, cuts, array.accumulator_bits)
    buffer = _buffer_cycles(hardware, traffic)
    dram_bytes = t.dram_bytes * p.batch
    dram = dram_bytes / hardware.dram_bytes_per_cycle
    vector = p.M * p.N * p.batch * (vector_cycles_per_element(hardware, "requantize") / hardware.vector.lanes)
    wait = hardware.dram.latency_ns * array.clock_mhz / 1e3 * (dram_bytes > 0)
    latency = np.ceil(np.maximum(np.maximum(compute, dram), np.maximum(buffer, vector)) + wait)
    macs = p.M * p.N * p.K * p.batch
    padded = np.maximum(folds * length * (rows * cols) - macs, 0)
    energy = _typical_pj(prices, macs, padded, traffic, dram_bytes)
    key = _key(schedule.objective, latency, energy, (shares <= streams) & t.feasible)
    pick = _least(key, t.product, len(tiler.products))
    ones = np.ones(len(pick), dtype=np.int64)
    found = {
        "key": key,
        "swapped": (p.taps == 1) * int(swapped),
        "pieces": t.pieces,
        "shares": shares,
        **{name: getattr(t, name) for name in ("tile_m", "tile_n", "tile_k", "order")},
        "folds": folds,
        "mapped_fraction": on_rows * on_cols / (row_folds * rows * col_folds * cols),
        "compute_cycles": compute.astype(np.float64),
        "dram_cycles": dram,
        "buffer_cycles": buffer,
        "vector_cycles": vector,
        "latency_cycles": latency,
        "dram_left_bytes": t.left_bytes * p.batch,
        "dram_right_bytes": t.right_bytes * p.batch,
        "dram_result_bytes": t.result_bytes * p.batch,
        "padded": padded,
        **{f"traffic{i}": values for i, values in enumerate(traffic)},
    }
    chosen = {"dataflow": DATAFLOWS.index(dataflow), "sub_arrays": side * side}
    return {name: values[pick] for name, values in found.items()} | {n: ones * v for n, v in chosen.items()}


def _least(key: Float, product: Int, products: int) -> Int:
    """Index of the least key of each product; `product` is sorted and names each of them."""
    starts = np.searchsorted(product, np.arange(products))
    if len(key) == products:
        return starts
    least = np.minimum.reduceat(key, starts)
    at_least = np.flatnonzero(key == least[product])
    return at_least[np.searchsorted(product[at_least], np.arange(products))]


def _key(objective: str, latency: Float, typical_pj: Float, allowed: NDArray[np.bool_]) -> Float:
    """What the scheduler minimises; between equal latencies, the less energy."""
    if objective == "energy":
        key = typical_pj
    elif objective == "energy_delay":
        key = typical_pj * latency
    else:
        key = latency + 0.5 * typical_pj / (1 + typical_pj)  # latencies are whole cycles
    return np.where(allowed, key, np.inf)


def _buffer_traffic(
    p: Products, t: Tilings, dataflow: Dataflow, row_folds: Int, col_folds: Int, cuts: Int, accumulator_bits: int
) -> Float:
    """Bytes with the whole batch, (6, candidates): reads of the three buffers, then their writes."""
    stationary = dataflow == "weight_stationary"
    sums = p.M * p.N * p.batch * (accumulator_bits / 8) * (row_folds if stationary else cuts)
    traffic = np.empty((6, len(p)))
    traffic[0] = p.M * p.K * p.batch * col_folds * p.left_bits / 8
    traffic[1] = p.K * p.N * p.batch * (cuts if stationary else row_folds) * p.right_bits / 8
    traffic[2] = traffic[5] = sums
    traffic[3], traffic[4] = t.left_bytes * p.batch, t.right_bytes * p.batch
    return traffic


def _buffer_cycles(hardware: Hardware, traffic: Float) -> Float:
    """Cycles that the busiest buffer port needs."""
    buffers: tuple[Buffer, ...] = (hardware.buffers.input, hardware.buffers.weight, hardware.buffers.output)
    busy = np.zeros(traffic.shape[1])
    for index, buffer in enumerate(buffers):
        read, write = traffic[index], traffic[index + 3]
        on_port = np.maximum(read, write) if buffer.ports == 2 else read + write
        busy = np.maximum(busy, on_port / buffer.bandwidth_bytes_per_cycle)
    return busy


def _typical_pj(prices: Prices, macs: Int, padded: Int, traffic: Float, dram_bytes: Float) -> Float:
    """Typical energy without leakage: for the scheduler's choice."""
    sram = np.concatenate([prices.sram_read_pj_per_byte[:, 1], prices.sram_write_pj_per_byte[:, 1]])
    work = macs * (prices.mac_pj[1] + prices.register_pj[1]) + padded * prices.idle_pe_pj[1]
    return work + sram @ traffic + dram_bytes * prices.dram_pj_per_byte[1]


def _energy_at_work(p: Products, padded: Float, traffic: Float, dram_bytes: Float, prices: Prices) -> Float:
    """Energy without leakage, (products, parts, 3), of the chosen mappings."""
    macs = (p.M * p.N * p.K * p.batch)[:, None]
    energy = np.zeros((len(p), len(PARTS), 3))
    energy[:, 0] = macs * prices.mac_pj
    energy[:, 1] = macs * prices.register_pj + padded[:, None] * prices.idle_pe_pj
    energy[:, 2] = traffic[:3].T @ prices.sram_read_pj_per_byte + traffic[3:].T @ prices.sram_write_pj_per_byte
    energy[:, 3] = dram_bytes[:, None] * prices.dram_pj_per_byte
    return energy


def vector_cycles_per_element(hardware: Hardware, kind: str) -> float:
    """Of one lane: the hardware file's figure, else the table's."""
    if kind in hardware.vector.cycles_per_element:
        return hardware.vector.cycles_per_element[kind]
    return vector_kind(kind)[0]


@cache
def vector_kind(kind: str) -> tuple[float, float]:
    """(cycles, elements read and written) an element, from `constants/vector.csv`."""
    rows = {row["kind"]: row for row in table("vector")}
    row = rows.get(kind, rows["default"])
    return float(row["cycles_per_element"]), float(row["reads"]) + float(row["writes"])
