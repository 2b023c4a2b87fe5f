"""Turns blocks of n words of n operands on their way into a buffer, a word a cycle.

One grid of registers shifts sideways for n words and downwards for the next n: what goes in along one axis comes out
along the other, while the next block goes in.
"""

# Amaranth makes the members of a component when it runs, so no checker knows them.
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class Transposer(wiring.Component):
    """In each cycle of `step` a word goes in; n steps later, and under `valid`, lane k of `turned` is the operand of
    word k of the block before: lane 0 of its words first. `clear` forgets everything."""

    def __init__(self, lanes: int, operand_bits: int):
        self.lanes, self.operand_bits = lanes, operand_bits
        width = lanes * operand_bits
        super().__init__({"clear": In(1), "step": In(1), "word": In(width), "turned": Out(width), "valid": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        n, bits = self.lanes, self.operand_bits
        rows = [Signal(n * bits, name=f"row_{r}") for r in range(n)]
        down, full, count = Signal(), Signal(), Signal(range(max(n, 2)))
        lanes = [self.word[bits * i : bits * (i + 1)] for i in range(n)]
        with m.If(self.step):
            for r, row in enumerate(rows):
                from_above = rows[r - 1] if r else Cat(*reversed(lanes))
                from_left = Cat(lanes[n - 1 - r], row)[: n * bits]
                m.d.sync += row.eq(Mux(down, from_above, from_left))
            m.d.sync += count.eq(count + 1)
            with m.If(count == n - 1):
                m.d.sync += [count.eq(0), down.eq(~down), full.eq(1)]
        with m.If(self.clear):
            m.d.sync += [count.eq(0), down.eq(0), full.eq(0)]
        bottom = [rows[-1][bits * (n - 1 - k) : bits * (n - k)] for k in range(n)]
        right = [rows[n - 1 - k][-bits:] for k in range(n)]
        m.d.comb += [self.valid.eq(full), self.turned.eq(Mux(down, Cat(*bottom), Cat(*right)))]
        return m
