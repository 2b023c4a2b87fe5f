"""Sums in the result buffer become codes with a shared scale: one pass finds the exponents, the next shifts.

The exponent of element (row, column) is that of its row plus that of its column. What shares a scale is a group of
rows, or a column. A word holds the columns: the matrix is at most as wide as the array.

Of an address in cycle c the memories answer in c + 1; the word meets its exponents in c + 2, is scanned by c + 3 and
counts in the exponents of c + 4; or is shifted from c + 3 on and written in c + 5.
"""

# Amaranth makes the members of a component when it runs, so no checker knows them.
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

from __future__ import annotations

from functools import reduce
from typing import Any

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from intaglio.rtl.array import delayed
from intaglio.rtl.design import ADDRESS_BITS, EXPONENT_BITS, Design
from intaglio.rtl.instructions import REQUANT, TO_RESULT
from intaglio.rtl.lane import FINEST_BITS, Dither, ScanLane, ShiftLane

_PASSES = ("IDLE", "SCAN", "SHIFT")
_FLUSH = 5
"""Cycles after the last address of a pass until it has been written."""
_NONE = -(1 << (FINEST_BITS - 1))
"""The exponent of zeros: below any other."""


class Requantizer(wiring.Component):
    """Reads and writes the result buffer; codes may go to an operand buffer instead."""

    def __init__(self, design: Design):
        self.design = design
        word = data.ArrayLayout(signed(design.sum_bits), design.cols)
        super().__init__(
            {
                "job": In(REQUANT),
                "start": In(1),
                "busy": Out(1),
                "row_exponent_write": In(1),
                "row_exponent_address": In(ADDRESS_BITS),
                "column_exponent_write": In(1),
                "exponent": In(signed(EXPONENT_BITS)),
                "read": Out(1),
                "read_address": Out(ADDRESS_BITS),
                "read_data": In(word),
                "store": Out(1),
                "store_address": Out(ADDRESS_BITS),
                "store_data": Out(word),
                "code_store": Out(1),
                "code_address": Out(ADDRESS_BITS),
                "codes": Out(data.ArrayLayout(signed(8), design.cols)),
                "target": Out(2),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        job = Signal(REQUANT)
        scanning, shifting, walk = self._passes(m, job)
        sums, exponents = self._operands(m, walk)
        shared, found = self._scan(m, job, scanning, walk, sums, exponents)
        self._shift(m, job, walk, sums, exponents, shared)
        written = delayed(m, shifting, _FLUSH)
        address = delayed(m, walk.row, _FLUSH)
        to_result = self.target == TO_RESULT
        m.d.comb += [
            self.target.eq(job.target),
            self.code_store.eq(written & ~to_result),
            self.code_address.eq(job.address + address),
            self.store.eq(found.valid | (written & to_result)),
            self.store_address.eq(Mux(found.valid, job.exponents + found.group, job.address + address)),
        ]
        for j in range(self.design.cols):
            m.d.comb += self.store_data[j].eq(Mux(found.valid, found.exponents[j], self.codes[j]))
        return m

    def _passes(self, m: Module, job: Any) -> tuple[Any, Any, Any]:
        """Walks over the rows twice."""
        pass_, row, left = Signal(range(len(_PASSES))), Signal(ADDRESS_BITS), Signal(range(_FLUSH + 1))
        in_group, group, running = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS), Signal()
        last, group_end = row == job.rows - 1, Signal()
        m.d.comb += [
            self.busy.eq(pass_ != 0),
            group_end.eq(Mux(job.group == 0, last, in_group == job.group - 1)),
            self.read.eq(running),
            self.read_address.eq(job.source + row),
        ]
        rewind = [row.eq(0), in_group.eq(0), group.eq(0), running.eq(1)]
        with m.If(self.start):
            m.d.sync += [job.eq(self.job), pass_.eq(1), *rewind]
        with m.Elif(running):
            m.d.sync += [row.eq(row + 1), in_group.eq(in_group + 1), running.eq(~last), left.eq(_FLUSH)]
            with m.If(group_end):
                m.d.sync += [in_group.eq(0), group.eq(group + 1)]
        with m.Elif(self.busy):
            m.d.sync += left.eq(left - 1)
            with m.If(left == 0):
                m.d.sync += [pass_.eq(Mux(pass_ == 1, 2, 0)), *rewind, running.eq(pass_ == 1)]
        scanning, shifting = running & (pass_ == 1), running & (pass_ == 2)
        return scanning, shifting, _Walk(row, group, in_group == 0, group_end)

    def _operands(self, m: Module, walk: Any) -> tuple[Any, list[Any]]:
        """The word of sums of two cycles ago, and the exponent of each."""
        cols = self.design.cols
        sums, row_exponent = Signal(self.read_data.shape()), Signal(signed(EXPONENT_BITS))
        columns = Signal(data.ArrayLayout(signed(EXPONENT_BITS), cols))
        m.submodules.row_exponents = memory = Memory(
            shape=signed(EXPONENT_BITS), depth=self.design.result_words, init=[]
        )
        reader, writer = memory.read_port(), memory.write_port()
        m.d.comb += [
            reader.en.eq(1),
            reader.addr.eq(walk.row),
            writer.en.eq(self.row_exponent_write),
            writer.addr.eq(self.row_exponent_address),
            writer.data.eq(self.exponent),
        ]
        with m.If(self.column_exponent_write):  # the first that comes is the first column's
            for j in range(cols):
                m.d.sync += columns[j].eq(columns[j + 1] if j + 1 < cols else self.exponent)
        m.d.sync += [sums.eq(self.read_data), row_exponent.eq(reader.data)]
        return sums, [row_exponent + columns[j] for j in range(cols)]

    def _scan(self, m: Module, job: Any, scanning: Any, walk: Any, sums: Any, exponents: list[Any]) -> tuple[Any, Any]:
        """The shared exponents: those of the shift pass two cycles after the address, and those just found."""
        cols, exponent = self.design.cols, signed(FINEST_BITS)
        lanes = Signal(data.ArrayLayout(exponent, cols))
        best, row_best = Signal(data.ArrayLayout(exponent, cols)), Signal(exponent)
        seen = delayed(m, scanning, 3)
        first, ends, group = delayed(m, walk.first, 3), delayed(m, walk.group_end, 4), delayed(m, walk.group, 4)
        for j in range(cols):
            m.submodules[f"scan_{j}"] = lane = ScanLane(self.design.sum_bits)
            m.d.comb += [lane.sum.eq(sums[j]), lane.exponent.eq(exponents[j]), lane.bits.eq(job.bits)]
            m.d.comb += lanes[j].eq(Mux(lane.any, lane.finest, _NONE))
        row = _tree([lanes[j] for j in range(cols)])
        with m.If(seen):
            m.d.sync += row_best.eq(Mux(first | (row > row_best), row, row_best))
            for j in range(cols):
                m.d.sync += best[j].eq(Mux(first | (lanes[j] > best[j]), lanes[j], best[j]))
        found = Signal(
            data.StructLayout({"valid": 1, "group": ADDRESS_BITS, "exponents": data.ArrayLayout(exponent, cols)})
        )
        by_column = job.group == 0
        m.d.comb += [found.valid.eq(delayed(m, scanning, 4) & ends), found.group.eq(group)]
        for j in range(cols):
            chosen = Mux(by_column, best[j], row_best)
            m.d.comb += found.exponents[j].eq(Mux(chosen == _NONE, 0, chosen))
        m.submodules.shared = memory = Memory(shape=exponent, depth=self.design.result_words, init=[])
        reader, writer = memory.read_port(), memory.write_port()
        of_row = Signal(exponent)
        m.d.comb += [
            reader.en.eq(1),
            reader.addr.eq(walk.group),
            writer.en.eq(found.valid),
            writer.addr.eq(group),
            writer.data.eq(found.exponents[0]),
        ]
        m.d.sync += of_row.eq(reader.data)
        return [Mux(by_column, found.exponents[j], of_row) for j in range(cols)], found

    def _shift(self, m: Module, job: Any, walk: Any, sums: Any, exponents: list[Any], shared: list[Any]) -> None:
        numbered = Signal(32)  # of the first column's dither, a cycle after the address
        number = Signal(32)
        m.d.comb += number.eq(Mux(walk.row == 0, job.hash, numbered + job.hash_step))
        m.d.sync += numbered.eq(number)
        for j in range(self.design.cols):
            m.submodules[f"shift_{j}"] = lane = ShiftLane(self.design.sum_bits)
            m.submodules[f"dither_{j}"] = dither = Dither()
            m.d.sync += [lane.sum.eq(sums[j]), lane.shift.eq(shared[j] - exponents[j])]
            m.d.comb += [
                *(lane.bits.eq(job.bits), lane.dither.eq(job.dither)),
                *(dither.index.eq(numbered + j), lane.fraction.eq(dither.fraction)),
                self.codes[j].eq(lane.code),
            ]


class _Walk:
    """Where the pass is: row, its group, and whether it is the first or the last of the group."""

    def __init__(self, row: Any, group: Any, first: Any, group_end: Any):
        self.row, self.group, self.first, self.group_end = row, group, first, group_end


def _tree(values: list[Any]) -> Any:
    """The largest, by pairs."""
    while len(values) > 1:
        pairs = list(zip(values[::2], values[1::2], strict=False))
        values = [Mux(a > b, a, b) for a, b in pairs] + ([values[-1]] if len(values) % 2 else [])
    return reduce(lambda a, _: a, values)
