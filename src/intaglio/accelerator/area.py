"""Silicon area of an accelerator from the cells of its PEs and the SRAM table: [low, typical, high] in mm2."""

from __future__ import annotations

from dataclasses import dataclass

from intaglio.accelerator.constants import Interval, area_constant, area_scale, scaling_uncertainty
from intaglio.accelerator.dataflow import TWO_REGISTERS
from intaglio.accelerator.hardware import Array, Hardware
from intaglio.accelerator.sram import sram_of


@dataclass(frozen=True)
class Area:
    """Parts of the chip; no pads, no DRAM interface, no host."""

    array_mm2: Interval
    vector_mm2: Interval
    buffers_mm2: Interval

    @property
    def total_mm2(self) -> Interval:
        return self.array_mm2 + self.vector_mm2 + self.buffers_mm2


def pe_area_um2(array: Array) -> Interval:
    """One PE at 45 nm: multiplier, adder, registers, multiplexers of the modes, over the share of a row that cells
    fill."""
    bits, sums = array.operand_bits, array.accumulator_bits
    if array.number == "integer":
        arithmetic = area_constant("int_multiply_per_bit2") * bits**2 + area_constant("int_add_per_bit") * sums
    else:
        multiply = "float16_multiply" if bits <= 16 else "float32_multiply"
        narrow, wide = area_constant("float16_add"), area_constant("float32_add")
        arithmetic = area_constant(multiply) + (wide if sums > 16 else narrow)
    registers = area_constant("register_per_bit") * _register_bits(array)
    cells = (arithmetic + registers) * area_constant("synthesis_factor")
    if len(set(array.modes)) == 1:  # the synthesised PE runs both
        cells = cells - area_constant("mode_multiplexer_per_bit") * (bits + sums)
    return cells / area_constant("cell_utilization")


def _register_bits(array: Array) -> int:
    """Two operands and a sum; the second register that hides loads (WS) or drains (OS) costs its bits."""
    bits = 2 * array.operand_bits + array.accumulator_bits
    if array.overlap in TWO_REGISTERS:
        bits += max(array.operand_bits if m == "weight_stationary" else array.accumulator_bits for m in array.modes)
    return bits


def area_of(hardware: Hardware) -> Area:
    """The chip's area. The buffers' spread is the scaling's: the table itself is one tool's answer."""
    array, technology = hardware.array, hardware.technology
    scale = area_scale(technology.node_nm) * scaling_uncertainty(technology.node_nm) * area_constant("control_factor")
    um2 = pe_area_um2(array) * array.pes
    if array.partition_side > 1:
        edge_bits = array.partition_side * (array.rows * array.operand_bits + array.cols * array.accumulator_bits)
        um2 = um2 + area_constant("partition_edge_per_bit") * edge_bits
    lane = area_constant("float32_multiply") + area_constant("float32_add") + 96 * area_constant("register_per_bit")
    vector = lane * area_constant("synthesis_factor") / area_constant("cell_utilization") * hardware.vector.lanes
    buffers = sum(sram_of(b, technology).area_mm2 for b in _buffers(hardware))
    spread = scaling_uncertainty(technology.node_nm)
    return Area(um2 * scale / 1e6, vector * scale / 1e6, buffers * spread)


def _buffers(hardware: Hardware):
    return (hardware.buffers.input, hardware.buffers.weight, hardware.buffers.output)
