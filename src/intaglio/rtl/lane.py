"""One lane of requantization, by shifts alone: what `quantizers/integer_step.py requantize` defines, bit for bit."""

# Amaranth makes the members of a component when it runs, so no checker knows them.
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from intaglio.rtl.design import EXPONENT_BITS

DITHER_BITS = 16
FINEST_BITS = EXPONENT_BITS + 2
"""Of an element's own finest exponent."""
MAX_SHIFT = 47
"""Beyond it a sum of 32 bits has no bit above the dither's."""
LEFT_SHIFT = 7
"""More than the longest shift to the left: a code has 8 bits."""


class ScanLane(wiring.Component):
    """The finest exponent with which a sum has a code: `exponent` plus the smallest s with |sum| <= max_code * 2^s.

    One cycle.
    """

    def __init__(self, sum_bits: int):
        super().__init__(
            {
                "sum": In(signed(sum_bits)),
                "exponent": In(signed(EXPONENT_BITS + 1)),
                "bits": In(4),
                "any": Out(1),
                "finest": Out(signed(FINEST_BITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = len(self.sum)
        magnitude, norm, length = Signal(width), Signal(width), Signal(range(width + 1))
        m.d.comb += magnitude.eq(Mux(self.sum < 0, -self.sum, self.sum))
        value, count = magnitude, Const(width, range(width + 1))
        for step in (16, 8, 4, 2, 1):  # the leading one to the top
            if step < width:
                empty = value[-step:] == 0
                value, count = Mux(empty, Cat(Const(0, step), value)[:width], value), count - Mux(empty, step, 0)
        m.d.comb += [norm.eq(value), length.eq(count)]
        top = Signal(8)  # of them bits - 1 are a code's
        code_mask, above = Signal(8), Signal()
        m.d.comb += [top.eq(norm[-8:] if width >= 8 else norm), code_mask.eq(~(Const(0xFF, 8) >> (self.bits - 1)[:3]))]
        m.d.comb += above.eq(((top | ~code_mask) == 0xFF) & Cat(top & ~code_mask, norm[:-8]).any())
        shift = Signal(signed(7))
        m.d.comb += shift.eq(length - self.bits + 1 + above)
        m.d.sync += [self.any.eq(self.sum != 0), self.finest.eq(self.exponent + shift)]
        return m


class Dither(wiring.Component):
    """The upper half of "lowbias32" of `index` (Wellons 2018), three cycles later."""

    def __init__(self):
        super().__init__({"index": In(32), "fraction": Out(DITHER_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        first, second, third = Signal(32), Signal(32), Signal(32)
        m.d.sync += [
            first.eq((self.index ^ (self.index >> 16)) * Const(0x7FEB352D, 32)),
            second.eq((first ^ (first >> 15)) * Const(0x846CA68B, 32)),
            third.eq(second ^ (second >> 16)),
        ]
        m.d.comb += self.fraction.eq(third[-DITHER_BITS:])
        return m


class ShiftLane(wiring.Component):
    """The code of `sum / 2^shift`: half to even, or floor(sum / 2^shift + fraction / 2^16); at most max_code.

    Two cycles; `fraction` is wanted in the second.
    """

    def __init__(self, sum_bits: int):
        super().__init__(
            {
                "sum": In(signed(sum_bits)),
                "shift": In(signed(FINEST_BITS + 1)),
                "bits": In(4),
                "dither": In(1),
                "fraction": In(DITHER_BITS),
                "code": Out(signed(8)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width, below = len(self.sum), len(self.sum)
        amount = Signal(6)  # 0 .. 54: a shift of -7 .. 47
        moved = self.shift + LEFT_SHIFT
        with m.If(moved < 0):  # only zeros
            m.d.comb += amount.eq(0)
        with m.Elif(moved > MAX_SHIFT + LEFT_SHIFT):
            m.d.comb += amount.eq(MAX_SHIFT + LEFT_SHIFT)
        with m.Else():
            m.d.comb += amount.eq(moved)
        wide = Cat(Const(0, below + LEFT_SHIFT), self.sum).as_signed()
        shifted = Signal(signed(width + below))
        m.d.sync += shifted.eq(wide >> amount)
        whole, part = shifted[below:].as_signed(), shifted[:below]
        up = Signal()
        rounds = part[-1] & (part[:-1].any() | whole[0])
        carries = (part[-DITHER_BITS:] + self.fraction)[DITHER_BITS]
        m.d.comb += up.eq(Mux(self.dither, carries, rounds))
        rounded, largest = Signal(signed(width + 1)), Signal(8)
        m.d.comb += [
            rounded.eq(whole + up),
            largest.eq((Const(1, unsigned(8)) << (self.bits - 1)[:3]) - 1),
        ]
        m.d.sync += self.code.eq(Mux(rounded > largest.as_signed(), largest, rounded))
        return m
