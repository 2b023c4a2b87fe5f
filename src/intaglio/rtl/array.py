"""The grid of PEs, and the registers that skew what enters it and align what leaves it.

Words of whole rows and columns go in; row i and column j see theirs i and j cycles later. A word of sums comes out when
the last column has its own: column j waits cols - 1 - j cycles.
"""

# Amaranth makes the members of a component when it runs, so no checker knows them.
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, ClockSignal, Instance, Module, Mux, ResetSignal, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from intaglio.rtl.design import Design
from intaglio.rtl.pe import PE, TAG


def delayed(m: Module, value: Any, cycles: int) -> Any:
    """`value` as it was `cycles` cycles ago; zeros before that. One shift register."""
    flat = value.as_value() if hasattr(value, "as_value") else value
    if cycles == 0:
        return flat
    line = Signal(cycles * len(flat))
    m.d.sync += line.eq(Cat(flat, line)[: len(line)])
    return line[-len(flat) :]


class Grid(wiring.Component):
    """`rows` x `cols` PEs. `out` is a column's sum of this cycle (WS), or what its drain holds (OS)."""

    def __init__(self, design: Design, black_box: bool = False):
        """black_box: leave the PEs to a Verilog module `grid` (`grid_verilog.py`)."""
        self.design, self.black_box = design, black_box
        operand, total = signed(design.operand_bits), signed(design.sum_bits)
        super().__init__(
            {
                "os": In(1),
                "x": In(data.ArrayLayout(operand, design.rows)),
                "tag": In(data.ArrayLayout(TAG, design.rows)),
                "weight": In(data.ArrayLayout(operand, design.cols)),
                "out": Out(data.ArrayLayout(total, design.cols)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self.black_box:
            m.submodules.grid = Instance(
                "grid", i_clk=ClockSignal(), i_rst=ResetSignal(), i_os=self.os, i_x=self.x.as_value(),
                i_tag=self.tag.as_value(), i_weight=self.weight.as_value(), o_out=self.out.as_value(),
            )  # fmt: skip
            return m
        rows, cols = self.design.rows, self.design.cols
        pes = [[PE(self.design) for _ in range(cols)] for _ in range(rows)]
        for i, row in enumerate(pes):
            for j, pe in enumerate(row):
                m.submodules[f"pe_{i}_{j}"] = pe
                m.d.comb += [
                    pe.os.eq(self.os),
                    pe.x_in.eq(row[j - 1].x_out if j else self.x[i]),
                    pe.tag_in.eq(row[j - 1].tag_out if j else self.tag[i]),
                    pe.weight_in.eq(pes[i - 1][j].weight_out if i else self.weight[j]),
                    pe.sum_in.eq(pes[i - 1][j].sum_out if i else 0),
                ]
        for j, pe in enumerate(pes[-1]):
            m.d.comb += self.out[j].eq(Mux(self.os, pe.sum_out, pe.total))
        return m


class SkewedArray(wiring.Component):
    """The grid between words.

    x, weight: a row of the operands; load_start: the first cycle of a load; drain_start: of a drain. Element t of a
    fold that enters in cycle c leaves, in WS, in cycle c + rows + cols - 2; the sums of row rows - 1 - u leave, in OS,
    u + cols - 1 cycles after drain_start.
    """

    def __init__(self, design: Design, black_box: bool = False):
        self.design, self.black_box = design, black_box
        operand, total = signed(design.operand_bits), signed(design.sum_bits)
        super().__init__(
            {
                "os": In(1),
                "x": In(data.ArrayLayout(operand, design.rows)),
                "weight": In(data.ArrayLayout(operand, design.cols)),
                "valid": In(1),
                "first": In(1),
                "last": In(1),
                "load": In(1),
                "load_start": In(1),
                "drain_start": In(1),
                "out": Out(data.ArrayLayout(total, design.cols)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.grid = grid = Grid(self.design, self.black_box)
        rows, cols = self.design.rows, self.design.cols
        m.d.comb += grid.os.eq(self.os)
        load, drain = self.load, self.drain_start
        for i in range(rows):
            if i:  # row i takes weights for rows - i cycles, and drains for i + 1
                load_above, drain_above = Signal(name=f"load_{i}"), Signal(name=f"drain_{i}")
                m.d.sync += [load_above.eq(load), drain_above.eq(drain)]
                load = load_above & self.load & ~self.load_start
                drain = drain_above | self.drain_start
            stream = delayed(m, Cat(self.x[i], self.valid, self.first, self.last), i)
            bits = self.design.operand_bits
            tag = {"valid": stream[bits], "first": stream[bits + 1], "last": stream[bits + 2], "load": load}
            m.d.comb += grid.x[i].eq(stream[:bits])
            m.d.comb += [grid.tag[i][name].eq(bit) for name, bit in {**tag, "drain": drain}.items()]
        for j in range(cols):
            m.d.comb += grid.weight[j].eq(delayed(m, self.weight[j], j))
            m.d.comb += self.out[j].eq(delayed(m, grid.out[j], cols - 1 - j))
        return m
