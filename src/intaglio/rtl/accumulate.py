"""Adds words of sums to the result buffer: the folds of a reduction (WS), and the parts of a split one.

A word that leaves the array in cycle c is written at the end of cycle c + 1.
"""

# Amaranth makes the members of a component when it runs, so no checker knows them.
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from intaglio.rtl.design import ADDRESS_BITS, Design
from intaglio.rtl.sequencer import WRITE


class Accumulator(wiring.Component):
    """`write` says where the word `sums` belongs. `done` pulses with the last word of a GEMM."""

    def __init__(self, design: Design):
        word = data.ArrayLayout(signed(design.sum_bits), design.cols)
        super().__init__(
            {
                "sums": In(word),
                "write": In(WRITE),
                "done": Out(1),
                "read": Out(1),
                "read_address": Out(ADDRESS_BITS),
                "read_data": In(word),
                "store": Out(1),
                "store_address": Out(ADDRESS_BITS),
                "store_data": Out(word),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        held, write = Signal(self.sums.shape()), Signal(WRITE)
        m.d.sync += [held.eq(self.sums), write.eq(self.write)]
        m.d.comb += [
            self.read.eq(self.write.write & self.write.accumulate),
            self.read_address.eq(self.write.address),
            self.store.eq(write.write),
            self.store_address.eq(write.address),
            self.done.eq(write.last),
        ]
        for j in range(len(self.sums)):
            m.d.comb += self.store_data[j].eq(held[j] + Mux(write.accumulate, self.read_data[j], 0))
        return m
