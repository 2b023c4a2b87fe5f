"""On-chip memories, in halves: the array works on one while the other is filled or emptied.

The highest bit of an address chooses the half. Reads answer in the next cycle.
"""

# Amaranth makes the members of a component when it runs, so no checker knows them.
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from intaglio.rtl.design import ADDRESS_BITS


def half_of(address: Any) -> Any:
    return address[-1]


class OperandBuffer(wiring.Component):
    """Words of operands: the array reads, the DMA port or the requantizer writes."""

    def __init__(self, word_bits: int, words: int, halves: int):
        self.words, self.halves = words, halves
        super().__init__(
            {
                "read_address": In(ADDRESS_BITS),
                "read_data": Out(word_bits),
                "write": In(1),
                "write_address": In(ADDRESS_BITS),
                "write_data": In(word_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        read = []
        for half in range(self.halves):
            m.submodules[f"half_{half}"] = memory = Memory(shape=len(self.write_data), depth=self.words, init=[])
            reader, writer = memory.read_port(), memory.write_port()
            m.d.comb += [
                reader.addr.eq(self.read_address),
                reader.en.eq(1),
                writer.addr.eq(self.write_address),
                writer.data.eq(self.write_data),
                writer.en.eq(self.write & (half_of(self.write_address) == half)),
            ]
            read.append(reader.data)
        m.d.comb += self.read_data.eq(_selected(m, self.read_address, read))
        return m


class ResultBuffer(wiring.Component):
    """Words of sums. The accumulator reads and writes one half, the requantizer and the DMA port the other.

    Two engines in the same half at the same time are a fault of the program: the accumulator wins. A read in the cycle
    of a write to the same word gives the new word.
    """

    def __init__(self, word_bits: int, words: int, halves: int):
        self.words, self.halves = words, halves
        port = {
            "read": In(1),
            "read_address": In(ADDRESS_BITS),
            "read_data": Out(word_bits),
            "write": In(1),
            "write_address": In(ADDRESS_BITS),
            "write_data": In(word_bits),
        }
        port = {f"{user}_{name}": member for user in ("array", "vector") for name, member in port.items()}
        super().__init__(port)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        read = []
        for half in range(self.halves):
            m.submodules[f"half_{half}"] = memory = Memory(shape=len(self.array_write_data), depth=self.words, init=[])
            writer = memory.write_port()
            reader = memory.read_port(transparent_for=(writer,))
            array_reads, array_writes, vector_writes = Signal(), Signal(), Signal()
            m.d.comb += [
                array_reads.eq(self.array_read & (half_of(self.array_read_address) == half)),
                array_writes.eq(self.array_write & (half_of(self.array_write_address) == half)),
                vector_writes.eq(self.vector_write & (half_of(self.vector_write_address) == half)),
                reader.addr.eq(Mux(array_reads, self.array_read_address, self.vector_read_address)),
                reader.en.eq(array_reads | (self.vector_read & (half_of(self.vector_read_address) == half))),
                writer.addr.eq(Mux(array_writes, self.array_write_address, self.vector_write_address)),
                writer.data.eq(Mux(array_writes, self.array_write_data, self.vector_write_data)),
                writer.en.eq(array_writes | vector_writes),
            ]
            read.append(reader.data)
        m.d.comb += [
            self.array_read_data.eq(_selected(m, self.array_read_address, read)),
            self.vector_read_data.eq(_selected(m, self.vector_read_address, read, self.vector_read)),
        ]
        return m


def _selected(m: Module, address: Any, read: list[Any], enable: Any = None) -> Any:
    """The word of the half that was addressed in the cycle before (or when last enabled)."""
    if len(read) == 1:
        return read[0]
    half = Signal()
    if enable is None:
        m.d.sync += half.eq(half_of(address))
    else:
        with m.If(enable):
            m.d.sync += half.eq(half_of(address))
    return Mux(half, read[1], read[0])
