"""The cost of every product on one design: the best mapping of each, and the energy of it."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from intaglio.accelerator.cuts import cut_in_two
from intaglio.accelerator.dataflow import Dataflow, Float, Int
from intaglio.accelerator.energy import PARTS, Prices
from intaglio.accelerator.hardware import Hardware
from intaglio.accelerator.limits import limits_of, require_room, require_sums
from intaglio.accelerator.mapping import Columns, Tiler, as_stored, best_mapping
from intaglio.accelerator.products import Products
from intaglio.errors import UserError


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


class ScoresDoNotFit(UserError):
    """Attention on chip in a design whose buffers do not hold the scores of one query."""


def cost_products(
    tiler: Tiler, hardware: Hardware, prices: Prices, dataflows: tuple[Dataflow, ...], names: list[str] | None = None
) -> Costs:
    """The best mapping of every product. Raises `UserError` when a product fits under no allowed mapping, or its sums
    could overflow."""
    limits, array = limits_of(hardware), hardware.array
    labels = names or [f"row {i + 1}" for i in range(len(tiler.products))]
    p = as_stored(tiler.products, array.operand_bits, array.number)
    require_sums(p, labels, array)
    best = best_mapping(tiler, hardware, prices, dataflows)
    key = best["key"]
    if not np.isfinite(key).all():
        require_room(p, labels, limits, dataflows)
        i = int(np.argmax(~np.isfinite(key)))
        raise ScoresDoNotFit(
            f"{labels[i]}: schedule.fused_attention keeps the scores of a block of queries on chip, and not one query "
            "fits into the buffers; what would help: larger buffers, or fused_attention = false"
        )
    if hardware.schedule.cut:
        cut_in_two(tiler, best, hardware, prices, dataflows)
    traffic = np.array([best.pop(f"traffic{i}") for i in range(6)])
    energy = _energy(tiler.products, best, traffic, prices)
    for name in ("key", "padded", "sums", "typical_pj"):
        del best[name]
    return Costs(**best, energy_pj=energy, sram_bytes=traffic.sum(axis=0))


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
