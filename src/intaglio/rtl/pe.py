"""The processing element: one multiplier, one adder, and the registers of a dataflow that a bit chooses at run time.

Control rides on the inputs: a tag moves right with `x`, so that a switch of weights or of sums follows the wavefront.

    weight-stationary   sum_out <- sum_in + weight * x              the weight came down the column under `load`
    output-stationary   sum <- (first ? 0 : sum) + weight_in * x    the sum leaves down the column under `drain`

With a second register the next weight loads (WS), or the last sum drains (OS), while the first one works.
"""

# Amaranth makes the members of a component when it runs, so no checker knows them.
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from intaglio.rtl.design import Design

TAG = data.StructLayout({"valid": 1, "first": 1, "last": 1, "load": 1, "drain": 1})
"""valid: `x` is an element of a fold; first, last: of its stream; load, drain: take the weight, the sum above."""


class PE(wiring.Component):
    """Ports: `total` is the sum of this cycle, before the register; the bottom row's leave the array in WS."""

    def __init__(self, design: Design):
        self.design = design
        operand, total = signed(design.operand_bits), signed(design.sum_bits)
        super().__init__(
            {
                "os": In(1),
                "x_in": In(operand),
                "tag_in": In(TAG),
                "weight_in": In(operand),
                "sum_in": In(total),
                "x_out": Out(operand),
                "tag_out": Out(TAG),
                "weight_out": Out(operand),
                "sum_out": Out(total),
                "total": Out(total),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        design, tag = self.design, self.tag_in
        m.d.sync += self.x_out.eq(self.x_in)
        m.d.sync += [self.tag_out[name].eq(tag[name]) for name in self._used_tags()]
        if design.has_ws and design.has_os:
            weight, addend = Signal(signed(design.operand_bits)), Signal(signed(design.sum_bits))
            with m.If(self.os):
                os_weight, os_addend = self._output_stationary(m)
                m.d.comb += [weight.eq(os_weight), addend.eq(os_addend)]
            with m.Else():
                ws_weight, ws_addend = self._weight_stationary(m)
                m.d.comb += [weight.eq(ws_weight), addend.eq(ws_addend)]
        else:
            weight, addend = self._output_stationary(m) if design.has_os else self._weight_stationary(m)
        m.d.comb += self.total.eq(addend + weight * self.x_in)
        return m

    def _used_tags(self) -> list[str]:
        used = set()
        if self.design.has_ws:
            used |= {"load"} | ({"first"} if self.design.second_register else set())
        if self.design.has_os:
            used |= {"valid", "first", "drain"} | ({"last"} if self.design.second_register else set())
        return [name for name, _ in TAG if name in used]

    def _weight_stationary(self, m: Module) -> tuple[Any, Any]:
        """Weight and addend of this cycle."""
        weight = self.weight_out
        if self.design.second_register:
            working = Signal(signed(self.design.operand_bits))
            weight = Mux(self.tag_in.first, self.weight_out, working)
            with m.If(self.tag_in.first):
                m.d.sync += working.eq(self.weight_out)
        with m.If(self.tag_in.load):
            m.d.sync += self.weight_out.eq(self.weight_in)
        m.d.sync += self.sum_out.eq(self.total)
        return weight, self.sum_in

    def _output_stationary(self, m: Module) -> tuple[Any, Any]:
        tag, total = self.tag_in, self.total
        m.d.sync += self.weight_out.eq(self.weight_in)
        working = self.sum_out
        if self.design.second_register:
            working = Signal(signed(self.design.sum_bits))
            with m.If(tag.valid):
                m.d.sync += working.eq(total)
            with m.If(tag.valid & tag.last):
                m.d.sync += self.sum_out.eq(total)
            with m.Elif(tag.drain):
                m.d.sync += self.sum_out.eq(self.sum_in)
        else:
            with m.If(tag.valid):
                m.d.sync += working.eq(total)
            with m.Elif(tag.drain):
                m.d.sync += working.eq(self.sum_in)
        return self.weight_in, Mux(tag.first, 0, working)
