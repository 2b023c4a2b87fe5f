"""Energy of array, buffers, DRAM, vector unit and leakage: prices in pJ, each [low, typical, high].

The parts are linear in counts, so an error bar is a price times a count. The same prices for two designs move together:
a ratio of two energies is taken corner by corner (`ratio_interval`), not low over high.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from intaglio.accelerator.area import area_of
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
    register_pj: Interval  # of a PE that works, a cycle
    idle_pe_pj: Interval  # of a PE that is padded, a cycle
    sram_read_pj_per_byte: NDArray[np.float64]  # (3 buffers, 3)
    sram_write_pj_per_byte: NDArray[np.float64]  # (3 buffers, 3)
    dram_pj_per_byte: Interval
    vector_pj: Interval  # of a lane, a cycle
    leakage_mw: Interval


def prices_of(hardware: Hardware) -> Prices:
    """The prices of a design, from its technology, widths and buffer sizes."""
    technology, array = hardware.technology, hardware.array
    scale = energy_scale(technology.node_nm, technology.supply_v) * scaling_uncertainty(technology.node_nm)
    mac = np.array([mac_pj(array, name) for name in SETS])
    typical = mac_pj(array, technology.arithmetic)
    mac_interval = np.array([mac.min(), typical, mac.max()]) * scale
    bits = 2 * array.operand_bits + array.accumulator_bits
    register = arithmetic("both", "register_per_bit") * bits * uncertainty("register") * scale
    idle = register[1] * np.array([uncertainty("idle_pe")[0], 0.1, uncertainty("idle_pe")[2]])
    srams = [sram_of(b, technology) for b in (hardware.buffers.input, hardware.buffers.weight, hardware.buffers.output)]
    spread = uncertainty("sram")
    area = area_of(hardware)
    logic_mm2 = float(area.array_mm2[1] + area.vector_mm2[1])
    leakage = logic_mm2 * arithmetic("both", "leakage_per_mm2") + sum(s.leakage_mw for s in srams)
    lane_pj = arithmetic("horowitz_45nm", "float32_multiply") + arithmetic("horowitz_45nm", "float32_add")
    dram = hardware.dram
    return Prices(
        mac_interval,
        register,
        idle,
        np.array([s.read_pj_per_byte * spread for s in srams]),
        np.array([s.write_pj_per_byte * spread for s in srams]),
        np.array([dram.pj_per_bit_low, dram.pj_per_bit_typical, dram.pj_per_bit_high]) * 8,
        lane_pj * uncertainty("vector") * scale,
        leakage * uncertainty("static"),
    )


def mac_pj(array: Array, arithmetic_set: str) -> float:
    """One multiply-accumulate at 45 nm, 0.9 V."""
    bits, sums = array.operand_bits, array.accumulator_bits
    if array.number == "integer":
        multiply = arithmetic(arithmetic_set, "int_multiply_per_bit2") * bits**2
        return multiply + arithmetic(arithmetic_set, "int_add_per_bit") * sums
    multiply = arithmetic(arithmetic_set, "float16_multiply" if bits <= 16 else "float32_multiply")
    return multiply + arithmetic(arithmetic_set, "float32_add" if sums > 16 else "float16_add")


def ratio_interval(energy: NDArray[np.float64], other: NDArray[np.float64]) -> Interval:
    """[lowest, typical, highest] of `energy / other`; both (parts, 3), every corner with the same ends for both
    designs."""
    corners = np.array(list(itertools.product((0, 2), repeat=len(energy))))
    parts = np.arange(len(energy))
    ratios = energy[parts, corners].sum(axis=1) / other[parts, corners].sum(axis=1)
    typical = energy[:, 1].sum() / other[:, 1].sum()
    return np.array([min(ratios.min(), typical), typical, max(ratios.max(), typical)])
