"""Energy of array, buffers, DRAM, vector unit and leakage: prices in pJ, each [low, typical, high].

The parts are linear in counts, so an error bar is a price times a count. The same prices for two designs move together:
a ratio of two energies is taken corner by corner (`ratio_interval`), not low over high.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from intaglio.accelerator.area import area_of, second_register_bits
from intaglio.accelerator.constants import (
    SETS,
    Interval,
    arithmetic,
    energy_scale,
    scaling_uncertainty,
    uncertainty,
)
from intaglio.accelerator.hardware import Array, Hardware
from intaglio.accelerator.sram import sram_of

PARTS = ("mac", "register", "sram", "dram", "vector", "static")


@dataclass(frozen=True)
class Prices:
    """What one unit costs on one design; intervals in pJ (leakage in mW = pJ a ns)."""

    mac_pj: Interval
    accumulate_pj: Interval  # of a sum that is added to the one in the output buffer
    register_pj: Interval  # of a PE that works, a cycle
    idle_pe_pj: Interval  # of a PE that is padded, a cycle
    sram_read_pj_per_byte: NDArray[np.float64]  # (3 buffers, 3)
    sram_write_pj_per_byte: NDArray[np.float64]  # (3 buffers, 3)
    transpose_pj_per_byte: Interval
    dram_pj_per_byte: Interval
    vector_pj: Interval  # of a lane, a cycle
    leakage_mw: Interval
    leakage_pj_per_cycle: Interval


def prices_of(hardware: Hardware) -> Prices:
    """The prices of a design, from its technology, widths and buffer sizes."""
    technology, array = hardware.technology, hardware.array
    scale = energy_scale(technology.node_nm, technology.supply_v) * scaling_uncertainty(technology.node_nm)
    mac = _interval({name: mac_pj(array, name) for name in SETS}, technology.arithmetic) * scale
    accumulate = _interval({name: add_pj(array, name) for name in SETS}, technology.arithmetic) * scale
    bits = 2 * array.operand_bits + array.accumulator_bits
    a_bit = arithmetic("both", "register_per_bit") * uncertainty("register") * scale
    idle_share = np.array([uncertainty("idle_pe")[0], 0.1, uncertainty("idle_pe")[2]])
    idle = a_bit[1] * bits * idle_share
    # A second register takes what an idle one takes: it changes once a fold.
    register = a_bit * bits + a_bit[1] * second_register_bits(array) * idle_share
    srams = [sram_of(b, technology) for b in (hardware.buffers.input, hardware.buffers.weight, hardware.buffers.output)]
    spread = uncertainty("sram")
    area = area_of(hardware)
    logic_mm2 = float((area.total_mm2 - area.buffers_mm2)[1])
    leakage = logic_mm2 * arithmetic("both", "leakage_per_mm2") + sum(s.leakage_mw for s in srams)
    lane_pj = arithmetic("horowitz_45nm", "float32_multiply") + arithmetic("horowitz_45nm", "float32_add")
    dram = hardware.dram
    leakage = leakage * uncertainty("static")
    return Prices(
        mac,
        accumulate,
        register,
        idle,
        np.array([s.read_pj_per_byte * spread for s in srams]),
        np.array([s.write_pj_per_byte * spread for s in srams]),
        a_bit * 8 * 2,  # written once, and read by a column's multiplexer: taken as another write
        np.array([dram.pj_per_bit_low, dram.pj_per_bit_typical, dram.pj_per_bit_high]) * 8,
        lane_pj * uncertainty("vector") * scale,
        leakage,
        leakage * 1e3 / array.clock_mhz,
    )


def _interval(of_set: dict[str, float], typical: str) -> Interval:
    return np.array([min(of_set.values()), of_set[typical], max(of_set.values())])


def add_pj(array: Array, arithmetic_set: str) -> float:
    """One addition of two sums at 45 nm, 0.9 V."""
    if array.number == "integer":
        return arithmetic(arithmetic_set, "int_add_per_bit") * array.accumulator_bits
    return arithmetic(arithmetic_set, "float32_add" if array.accumulator_bits > 16 else "float16_add")


def mac_pj(array: Array, arithmetic_set: str) -> float:
    """One multiply-accumulate at 45 nm, 0.9 V."""
    bits = array.operand_bits
    if array.number == "integer":
        return arithmetic(arithmetic_set, "int_multiply_per_bit2") * bits**2 + add_pj(array, arithmetic_set)
    multiply = arithmetic(arithmetic_set, "float16_multiply" if bits <= 16 else "float32_multiply")
    return multiply + add_pj(array, arithmetic_set)


def ratio_interval(energy: NDArray[np.float64], other: NDArray[np.float64]) -> Interval:
    """[lowest, typical, highest] of `energy / other`; both (parts, 3), every corner with the same ends for both
    designs."""
    corners = np.array(list(itertools.product((0, 2), repeat=len(energy))))
    parts = np.arange(len(energy))
    ratios = energy[parts, corners].sum(axis=1) / other[parts, corners].sum(axis=1)
    typical = energy[:, 1].sum() / other[:, 1].sum()
    return np.array([min(ratios.min(), typical), typical, max(ratios.max(), typical)])
