"""Takes instructions in order and starts the engine of each; LOAD and STORE are its own.

An instruction waits for its own engine and for those of its `after`. GEMMs follow without a gap: the sequencer takes
the next one while the last fold of the one before is on its way.
"""

# Amaranth makes the members of a component when it runs, so no checker knows them.
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from intaglio.rtl.design import ADDRESS_BITS, EXPONENT_BITS, Design, input_bits
from intaglio.rtl.instructions import (
    COLUMN_EXPONENTS,
    ENGINES,
    GEMM,
    INSTRUCTION,
    LEFT,
    LOAD,
    REQUANT,
    RESULT,
    RIGHT,
    ROW_EXPONENTS,
    STORE,
)
from intaglio.rtl.transposer import Transposer


class Controller(wiring.Component):
    """Ports to the outside are streams: `valid` and `ready` in the same cycle pass a word."""

    def __init__(self, design: Design):
        self.design = design
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "instruction_valid": In(1),
                "instruction_ready": Out(1),
                "in_data": In(input_bits(design)),
                "in_valid": In(1),
                "in_ready": Out(1),
                "out_data": Out(design.cols * design.sum_bits),
                "out_valid": Out(1),
                "out_ready": In(1),
                "idle": Out(1),
                "gemm": Out(GEMM),
                "gemm_valid": Out(1),
                "gemm_ready": In(1),
                "gemm_busy": In(1),
                "requant": Out(REQUANT),
                "requant_start": Out(1),
                "requant_busy": In(1),
                "left_write": Out(1),
                "right_write": Out(1),
                "result_write": Out(1),
                "row_exponent_write": Out(1),
                "column_exponent_write": Out(1),
                "load_address": Out(ADDRESS_BITS),
                "load_data": Out(input_bits(design)),
                "load_exponent": Out(signed(EXPONENT_BITS)),
                "store_read": Out(1),
                "store_address": Out(ADDRESS_BITS),
                "store_data": In(design.cols * design.sum_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        op, fields = self.instruction.op, self.instruction.fields
        load_start, store_start, go, chosen = Signal(), Signal(), Signal(), Signal(len(ENGINES))
        loading, storing = self._load(m, fields.load, load_start), self._store(m, fields.store, store_start)
        busy = Cat(loading, self.gemm_busy, self.requant_busy, storing)  # in the order of ENGINES
        free = Cat(~loading, self.gemm_ready, ~self.requant_busy, ~storing)
        m.d.comb += [
            go.eq(self.instruction_valid & ~(self.instruction.after & busy).any()),
            chosen.eq(1 << op),
            self.instruction_ready.eq(go & (free & chosen).any()),
            load_start.eq(self.instruction_ready & chosen[ENGINES.index("LOAD")]),
            store_start.eq(self.instruction_ready & chosen[ENGINES.index("STORE")]),
            self.gemm.eq(fields.gemm),
            self.gemm_valid.eq(go & chosen[ENGINES.index("GEMM")]),
            self.requant.eq(fields.requant),
            self.requant_start.eq(self.instruction_ready & chosen[ENGINES.index("REQUANT")]),
            self.idle.eq(~self.instruction_valid & ~busy.any()),
        ]
        return m

    def _load(self, m: Module, job: Any, start: Any) -> Any:
        """Beats of the input port into a buffer."""
        running, target = Signal(LOAD), Signal(5)
        loading, taken, step, write, flushing = Signal(), Signal(), Signal(), Signal(), Signal()
        turned, ready, lanes = self._transposers(m, running, start, step)
        m.d.comb += [
            taken.eq(loading & self.in_valid),
            self.in_ready.eq(loading),
            step.eq(taken | flushing),
            write.eq(Mux(running.turn, step & ready, taken)),
            target.eq(Mux(write, 1 << running.target, 0)),
            self.left_write.eq(target[LEFT]),
            self.right_write.eq(target[RIGHT]),
            self.result_write.eq(target[RESULT]),
            self.row_exponent_write.eq(target[ROW_EXPONENTS]),
            self.column_exponent_write.eq(target[COLUMN_EXPONENTS]),
            self.load_address.eq(running.address),
            self.load_data.eq(Mux(running.turn, turned, self.in_data)),
            self.load_exponent.eq(self.in_data[:EXPONENT_BITS].as_signed()),
        ]
        with m.If(start):
            m.d.sync += [running.eq(job), loading.eq(1)]
        with m.Elif(step):
            m.d.sync += [running.address.eq(running.address + write), running.count.eq(running.count - 1)]
            with m.If(running.count == 1):  # the last block is still in the transposer
                m.d.sync += [loading.eq(0), flushing.eq(loading & running.turn), running.count.eq(lanes)]
        return loading | flushing

    def _transposers(self, m: Module, job: Any, start: Any, step: Any) -> tuple[Any, Any, Any]:
        """The turned word of the job's operand, whether there is one, and the words of a block."""
        turned, ready, lanes = Signal(input_bits(self.design)), Signal(), Signal(ADDRESS_BITS)
        for edge, target, n in (("left", LEFT, self.design.rows), ("right", RIGHT, self.design.cols)):
            if edge in self.design.transposers:
                m.submodules[f"transpose_{edge}"] = part = Transposer(n, self.design.operand_bits)
                m.d.comb += [part.clear.eq(start), part.step.eq(step), part.word.eq(self.in_data)]
                with m.If(job.target == target):
                    m.d.comb += [turned.eq(part.turned), ready.eq(part.valid), lanes.eq(n)]
        return turned, ready, lanes

    def _store(self, m: Module, job: Any, start: Any) -> Any:
        """Words of the result buffer to the output port, one a cycle while it is taken."""
        running, reading, full = Signal(STORE), Signal(), Signal()
        m.d.comb += [
            self.store_read.eq(reading & (~full | self.out_ready)),
            self.store_address.eq(running.address),
            self.out_valid.eq(full),
            self.out_data.eq(self.store_data),
        ]
        with m.If(self.store_read):
            m.d.sync += [
                full.eq(1),
                running.address.eq(running.address + 1),
                running.count.eq(running.count - 1),
                reading.eq(running.count != 1),
            ]
        with m.Elif(self.out_ready):
            m.d.sync += full.eq(0)
        with m.If(start):
            m.d.sync += [running.eq(job), reading.eq(1)]
        return reading | full
