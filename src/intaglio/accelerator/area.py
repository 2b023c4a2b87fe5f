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
    edges_mm2: Interval  # skew, deskew, transposers, accumulators, connections of sub-arrays
    vector_mm2: Interval
    buffers_mm2: Interval

    @property
    def total_mm2(self) -> Interval:
        return self.array_mm2 + self.edges_mm2 + self.vector_mm2 + self.buffers_mm2


def pe_area_um2(array: Array) -> Interval:
    """One PE at 45 nm, over the share of a row that cells fill.

    The parts of a switchable PE of one register, times what synthesis adds; then what synthesised INT8 PEs of other
    modes and registers differ from it by, for each bit of operands and sum.
    """
    register_bits = 2 * array.operand_bits + array.accumulator_bits
    cells = _switchable_um2(array.number, array.operand_bits, array.accumulator_bits)
    modes = "both" if len(set(array.modes)) > 1 else array.modes[0]
    registers = "two_registers" if array.overlap in TWO_REGISTERS else "one_register"
    more = area_constant(f"pe_{modes}_{registers}") - 1
    cells = cells + more * _switchable_um2("integer", 8, 32) / (2 * 8 + 32) * register_bits
    return cells / area_constant("cell_utilization")


def _switchable_um2(number: str, operand_bits: int, sum_bits: int) -> Interval:
    """Multiplier, adder, registers and multiplexers of a PE that runs both dataflows with one register."""
    multiply = "float16_multiply" if operand_bits <= 16 else "float32_multiply"
    squares = area_constant("int_multiply_per_bit2") * operand_bits**2
    multiplier = squares if number == "integer" else area_constant(multiply)
    registers = area_constant("register_per_bit") * (2 * operand_bits + sum_bits)
    return (multiplier + _adder_um2(number, sum_bits) + registers) * area_constant("synthesis_factor")


def _adder_um2(number: str, sum_bits: int) -> Interval:
    """Of two sums, at 45 nm."""
    if number == "integer":
        return area_constant("int_add_per_bit") * sum_bits
    return area_constant("float32_add" if sum_bits > 16 else "float16_add")


def second_register_bits(array: Array) -> int:
    """Of the register that loads (WS) or drains (OS) while the other works; 0 where there is none."""
    if array.overlap not in TWO_REGISTERS:
        return 0
    return max(array.operand_bits if m == "weight_stationary" else array.accumulator_bits for m in array.modes)


def edges_um2(array: Array) -> Interval:
    """What stands around the (sub-)arrays, at 45 nm: registers that skew operands and deskew sums, transposers of
    rows x rows, an adder a column for the sums of folds, and a register and multiplexer a bit where sub-arrays meet."""
    n = array.partition_side
    rows, cols = array.rows // n, array.cols // n
    skew_bits = rows * (rows - 1) / 2 * array.operand_bits + cols * (cols - 1) / 2 * array.accumulator_bits
    if "output_stationary" in array.modes:
        skew_bits += cols * (cols - 1) / 2 * array.operand_bits  # its weights enter at the top, skewed
    register, multiplexer = area_constant("register_per_bit"), area_constant("multiplexer_per_bit")
    turning_bits = {"left": rows * rows, "right": cols * cols}
    turning = sum(turning_bits[edge] for edge in array.transposers) * array.operand_bits
    one = (
        register * skew_bits
        + (register + multiplexer) * turning
        + _adder_um2(array.number, array.accumulator_bits) * cols
    )
    cells = one * n * n * area_constant("synthesis_factor") / area_constant("cell_utilization")
    if n == 1:
        return cells
    edge_bits = n * (array.rows * array.operand_bits + array.cols * array.accumulator_bits)
    return cells + area_constant("partition_edge_per_bit") * edge_bits


def area_of(hardware: Hardware) -> Area:
    """The chip's area. The buffers' spread is the scaling's: the table itself is one tool's answer."""
    array, technology = hardware.array, hardware.technology
    scale = area_scale(technology.node_nm) * scaling_uncertainty(technology.node_nm) * area_constant("control_factor")
    lane = area_constant("float32_multiply") + area_constant("float32_add") + 96 * area_constant("register_per_bit")
    vector = lane * area_constant("synthesis_factor") / area_constant("cell_utilization") * hardware.vector.lanes
    buffers = hardware.buffers
    srams = sum(sram_of(b, technology).area_mm2 for b in (buffers.input, buffers.weight, buffers.output))
    return Area(
        pe_area_um2(array) * array.pes * scale / 1e6,
        edges_um2(array) * scale / 1e6,
        vector * scale / 1e6,
        srams * scaling_uncertainty(technology.node_nm),
    )
