"""Runs GEMMs on the array, fold after fold, each as early as the registers of the PEs allow.

Times of a fold, in cycles of the addresses (the memories answer one later): decided in D, its weights are read in
D + 1 .. D + rows (WS), its stream in the T cycles after that; in OS the stream begins in D + 1. Two decisions lie this
many cycles apart, also those of neighbouring GEMMs:

    serial           T + 2 rows + cols - 2
    double_buffered  T + rows + cols - 2
    wavefront        T + rows - 1
    shadow           max(T, rows); in OS, before a fold of T' elements, max(T, T + rows - T')
"""

# Amaranth makes the members of a component when it runs, so no checker knows them.
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from intaglio.rtl.array import delayed
from intaglio.rtl.design import ADDRESS_BITS, Design
from intaglio.rtl.instructions import GEMM

_NUMBER = unsigned(ADDRESS_BITS)
FOLD = data.StructLayout(
    {"left": _NUMBER, "right": _NUMBER, "result": _NUMBER, "t": _NUMBER, "rows": _NUMBER, "accumulate": 1, "last": 1}
)
"""One fold: first addresses, length of its stream, rows of the result from its first on (OS), whether its GEMM ends."""
WRITE = data.StructLayout({"write": 1, "address": _NUMBER, "accumulate": 1, "last": 1})
"""What becomes of the word of sums that leaves the array."""


class Sequencer(wiring.Component):
    """`write` goes with the array's `out`. The controls of the array go with the words that were read."""

    def __init__(self, design: Design):
        self.design = design
        super().__init__(
            {
                "job": In(GEMM),
                "job_valid": In(1),
                "job_ready": Out(1),
                "done": In(1),
                "busy": Out(1),
                "os": Out(1),
                "left_address": Out(ADDRESS_BITS),
                "right_address": Out(ADDRESS_BITS),
                "controls": Out(CONTROLS),
                "write": Out(WRITE),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fold, decided = self._folds(m)
        loading, loaded, load_address, load_start = self._load(m, fold, decided & ~self.os)
        start = Mux(self.os, decided, loading & loaded.valid)
        stream = self._stream(m, start, Mux(self.os, fold.as_value(), loaded.fold.as_value()))
        drain_start, drain_write = self._drain(m, stream)
        m.d.comb += [
            self.left_address.eq(stream.left),
            self.right_address.eq(Mux(loading, load_address, stream.right)),
        ]
        m.d.sync += self.controls.eq(
            Cat(stream.valid, stream.first, stream.last, loading, load_start, drain_start)
        )  # in the order of CONTROLS
        write = data.View(WRITE, Mux(self.os, drain_write, stream.delayed_write))
        m.d.comb += self.write.as_value().eq(delayed(m, write, self.design.cols))
        return m

    def _folds(self, m: Module) -> tuple[Any, Signal]:
        """Walks through the folds of the jobs; the next fold, and whether it is decided on in this cycle."""
        design = self.design
        job, running = Signal(GEMM), Signal()
        row, col = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        left, right, right_row = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        result, result_row, rows_left = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        decided, last_col, last = Signal(), Signal(), Signal()
        in_flight = Signal(range(2 * design.rows + 2 * design.cols + 8))
        fold = Signal(FOLD)
        m.d.comb += [
            decided.eq(running & self._waited(m, decided, fold.t)),
            last_col.eq(col == job.col_blocks - 1),
            last.eq(last_col & (row == job.row_blocks - 1)),
            self.os.eq(job.os if design.has_ws and design.has_os else int(design.has_os)),
            self.busy.eq(in_flight != 0),
            self.job_ready.eq((~running | (decided & last)) & ((self.job.os == job.os) | ~self.busy)),
            fold.left.eq(left),
            fold.right.eq(right),
            fold.result.eq(result),
            fold.t.eq(Mux(self.os, job.k, job.m)),
            fold.rows.eq(rows_left),
            fold.accumulate.eq(job.accumulate | (~self.os & (row != 0))),
            fold.last.eq(last),
        ]
        accepted = self.job_valid & self.job_ready
        m.d.sync += in_flight.eq(in_flight + accepted - self.done)
        next_right_row = right_row + Mux(self.os, 0, design.rows)
        next_result_row = result_row + Mux(self.os, design.rows, 0)
        with m.If(decided):
            with m.If(last_col):
                m.d.sync += [
                    row.eq(row + 1),
                    col.eq(0),
                    left.eq(left + fold.t),
                    right_row.eq(next_right_row),
                    right.eq(Mux(job.split == 0, job.right_split, job.right) + next_right_row),
                    result_row.eq(next_result_row),
                    result.eq(job.result + next_result_row),
                    rows_left.eq(rows_left - design.rows),
                    running.eq(~last),
                ]
            with m.Else():
                m.d.sync += [
                    col.eq(col + 1),
                    right.eq(Mux(col + 1 == job.split, job.right_split + right_row, right + job.k)),
                    result.eq(result + job.m),
                ]
        with m.If(accepted):
            new = self.job
            m.d.sync += [
                *(job.eq(new), running.eq(1), row.eq(0), col.eq(0), left.eq(new.left), right_row.eq(0)),
                *(result_row.eq(0), right.eq(Mux(new.split == 0, new.right_split, new.right)), result.eq(new.result)),
                rows_left.eq(new.m),
            ]
        return fold, decided

    def _waited(self, m: Module, decided: Signal, t: Any) -> Any:
        """Whether the fold before, of `before` elements, lets a fold of `t` elements start."""
        design, bits = self.design, ADDRESS_BITS + 1
        before, elapsed = Signal(ADDRESS_BITS), Signal(bits, init=2**bits - 1)
        with m.If(decided):
            m.d.sync += [before.eq(t), elapsed.eq(1)]
        with m.Elif(~elapsed.all()):
            m.d.sync += elapsed.eq(elapsed + 1)
        spent = elapsed + design.early
        if design.fixed_wait is not None:
            return spent >= before + design.fixed_wait
        chain = Mux(self.os, before + design.rows - t, design.rows)
        return (spent >= before) & (spent >= chain)

    def _load(self, m: Module, fold: Any, start: Any) -> tuple[Signal, Any, Signal, Any]:
        """Reads the weights of a fold, last row first."""
        rows = self.design.rows
        loading, held, address = Signal(), Signal(FOLD), Signal(ADDRESS_BITS)
        step = Signal(range(max(rows, 2)))
        loaded = Signal(data.StructLayout({"valid": 1, "fold": FOLD}))
        m.d.comb += [loaded.valid.eq(step == rows - 1), loaded.fold.eq(held)]
        with m.If(start):
            m.d.sync += [loading.eq(1), held.eq(fold), step.eq(0), address.eq(fold.right + rows - 1)]
        with m.Elif(loading):
            m.d.sync += [loading.eq(~loaded.valid), step.eq(step + 1), address.eq(address - 1)]
        return loading, loaded, address, loading & (step == 0)

    def _stream(self, m: Module, start: Any, fold: Any) -> Any:
        """Reads the elements of a fold, and says where its words of sums belong."""
        held, streaming, step = Signal(FOLD), Signal(), Signal(ADDRESS_BITS)
        last = Signal()
        m.d.comb += last.eq(streaming & (step == held.t - 1))
        with m.If(start):
            m.d.sync += [held.eq(fold), streaming.eq(1), step.eq(0)]
        with m.Elif(streaming):
            m.d.sync += [streaming.eq(~last), step.eq(step + 1)]
        write = Signal(WRITE)
        m.d.comb += [
            write.write.eq(Mux(self.os, last, streaming)),
            write.address.eq(held.result + Mux(self.os, 0, step)),
            write.accumulate.eq(held.accumulate),
            write.last.eq(held.last & last),
        ]
        late = delayed(m, Cat(write, held.rows), self.design.rows - 1)
        return _Stream(
            streaming, streaming & (step == 0), last, (held.left + step)[:ADDRESS_BITS],
            (held.right + step)[:ADDRESS_BITS], late[: WRITE.size], late[WRITE.size :],
        )  # fmt: skip

    def _drain(self, m: Module, stream: Any) -> tuple[Any, Any]:
        """Takes the sums of an OS fold out of the columns, last row first, `rows` cycles after its last element."""
        rows = self.design.rows
        pulse = data.View(WRITE, stream.delayed_write)
        draining, held, held_rows = Signal(), Signal(WRITE), Signal(ADDRESS_BITS)
        row = Signal(range(max(rows, 2)))
        with m.If(self.os & pulse.write):
            m.d.sync += [draining.eq(1), held.eq(pulse), held_rows.eq(stream.delayed_rows), row.eq(rows - 1)]
        with m.Elif(draining):
            m.d.sync += [draining.eq(row != 0), row.eq(row - 1)]
        write = Signal(WRITE)
        m.d.comb += [
            write.write.eq(draining & (row < held_rows)),
            write.address.eq(held.address + row),
            write.accumulate.eq(held.accumulate),
            write.last.eq(draining & held.last & (row == 0)),
        ]
        return draining & (row == rows - 1), write.as_value()


CONTROLS = data.StructLayout({"valid": 1, "first": 1, "last": 1, "load": 1, "load_start": 1, "drain_start": 1})


class _Stream:
    """Signals of the fold that streams in this cycle; `delayed_*` are those of rows - 1 cycles ago."""

    def __init__(self, valid: Any, first: Any, last: Any, left: Any, right: Any, delayed_write: Any, delayed_rows: Any):
        self.valid, self.first, self.last, self.left, self.right = valid, first, last, left, right
        self.delayed_write, self.delayed_rows = delayed_write, delayed_rows
