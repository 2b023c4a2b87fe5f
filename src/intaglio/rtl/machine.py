"""The whole machine: buffers, array, accumulator, requantizer, and the controller that runs a program on them."""

# Amaranth makes the members of a component when it runs, so no checker knows them.
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from intaglio.rtl.accumulate import Accumulator
from intaglio.rtl.array import SkewedArray
from intaglio.rtl.buffers import OperandBuffer, ResultBuffer
from intaglio.rtl.controller import Controller
from intaglio.rtl.design import Design, input_bits
from intaglio.rtl.instructions import INSTRUCTION, TO_LEFT, TO_RIGHT
from intaglio.rtl.requantize import Requantizer
from intaglio.rtl.sequencer import Sequencer


class Machine(wiring.Component):
    """Three streams: instructions and operands in, sums out. `gemm_cycles` counts the cycles in which a GEMM runs."""

    def __init__(self, design: Design, black_box: bool = False):
        """black_box: leave the PEs to a Verilog module `grid`."""
        self.design, self.black_box = design, black_box
        super().__init__(
            {
                "instruction": In(INSTRUCTION.size),
                "instruction_valid": In(1),
                "instruction_ready": Out(1),
                "in_data": In(input_bits(design)),
                "in_valid": In(1),
                "in_ready": Out(1),
                "out_data": Out(design.cols * design.sum_bits),
                "out_valid": Out(1),
                "out_ready": In(1),
                "idle": Out(1),
                "gemm_cycles": Out(32),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        design = self.design
        bits, sum_bits = design.operand_bits, design.cols * design.sum_bits
        m.submodules.controller = controller = Controller(design)
        m.submodules.sequencer = sequencer = Sequencer(design)
        m.submodules.left = left = OperandBuffer(design.rows * bits, design.left_words, design.halves)
        m.submodules.right = right = OperandBuffer(design.cols * bits, design.right_words, design.halves)
        m.submodules.array = array = SkewedArray(design, self.black_box)
        m.submodules.accumulator = accumulator = Accumulator(design)
        m.submodules.result = result = ResultBuffer(sum_bits, design.result_words, design.halves)
        m.submodules.requantizer = requantizer = Requantizer(design)
        streams = ("instruction_valid", "instruction_ready", "in_data", "in_valid", "in_ready", "out_data", "out_valid",
                   "out_ready", "idle")  # fmt: skip
        for name in streams:
            inner, outer = getattr(controller, name), getattr(self, name)
            m.d.comb += inner.eq(outer) if self.signature.members[name].flow is In else outer.eq(inner)
        with m.If(sequencer.busy | (sequencer.job_valid & sequencer.job_ready)):
            m.d.sync += self.gemm_cycles.eq(self.gemm_cycles + 1)

        m.d.comb += [
            controller.instruction.eq(self.instruction),
            sequencer.job.eq(controller.gemm),
            sequencer.job_valid.eq(controller.gemm_valid),
            controller.gemm_ready.eq(sequencer.job_ready),
            controller.gemm_busy.eq(sequencer.busy),
            sequencer.done.eq(accumulator.done),
            requantizer.job.eq(controller.requant),
            requantizer.start.eq(controller.requant_start),
            controller.requant_busy.eq(requantizer.busy),
            requantizer.row_exponent_write.eq(controller.row_exponent_write),
            requantizer.row_exponent_address.eq(controller.load_address),
            requantizer.column_exponent_write.eq(controller.column_exponent_write),
            requantizer.exponent.eq(controller.load_exponent),
        ]
        m.d.comb += [
            array.os.eq(sequencer.os),
            array.x.eq(Mux(sequencer.controls.valid, left.read_data, 0)),
            array.weight.eq(right.read_data),
            *(getattr(array, name).eq(sequencer.controls[name]) for name, _ in sequencer.controls.shape()),
            left.read_address.eq(sequencer.left_address),
            right.read_address.eq(sequencer.right_address),
            accumulator.sums.eq(array.out),
            accumulator.write.eq(sequencer.write),
            accumulator.read_data.eq(result.array_read_data),
            result.array_read.eq(accumulator.read),
            result.array_read_address.eq(accumulator.read_address),
            result.array_write.eq(accumulator.store),
            result.array_write_address.eq(accumulator.store_address),
            result.array_write_data.eq(accumulator.store_data),
        ]
        m.d.comb += [
            requantizer.read_data.eq(result.vector_read_data),
            controller.store_data.eq(result.vector_read_data),
            result.vector_read.eq(requantizer.read | controller.store_read),
            result.vector_read_address.eq(Mux(requantizer.busy, requantizer.read_address, controller.store_address)),
            result.vector_write.eq(requantizer.store | controller.result_write),
            result.vector_write_address.eq(Mux(requantizer.store, requantizer.store_address, controller.load_address)),
            result.vector_write_data.eq(
                Mux(requantizer.store, requantizer.store_data.as_value(), controller.load_data[:sum_bits])
            ),
        ]
        codes = [requantizer.codes[j][:bits] for j in range(design.cols)]
        for buffer, write, lanes, target in (
            (left, controller.left_write, design.rows, TO_LEFT),
            (right, controller.right_write, design.cols, TO_RIGHT),
        ):
            own = requantizer.code_store & (requantizer.target == target)
            m.d.comb += [
                buffer.write.eq(write | own),
                buffer.write_address.eq(Mux(own, requantizer.code_address, controller.load_address)),
                buffer.write_data.eq(Mux(own, Cat(*codes[:lanes]), controller.load_data)),
            ]
        return m
