"""The four instructions, as bits. `encode` makes one for the instruction port.

`after` holds an instruction back until the engines that it names are idle; each engine runs beside the others.
"""

from __future__ import annotations

from amaranth.hdl import unsigned
from amaranth.lib import data

from intaglio.rtl.design import ADDRESS_BITS, EXPONENT_BITS

ENGINES = ("LOAD", "GEMM", "REQUANT", "STORE")
"""An instruction's number, and its engine's bit in `after`."""

LEFT, RIGHT, ROW_EXPONENTS, COLUMN_EXPONENTS, RESULT = range(5)
"""Where LOAD writes."""
TO_RESULT, TO_LEFT, TO_RIGHT = range(3)
"""Where REQUANT writes."""

_NUMBER = unsigned(ADDRESS_BITS)

LOAD = data.StructLayout({"target": 3, "turn": 1, "address": _NUMBER, "count": _NUMBER})
"""`count` beats of the input port into words from `address`, or into exponents, one a beat. turn: whole square blocks
of an operand, each transposed on its way."""

GEMM = data.StructLayout(
    {
        "os": 1,
        "accumulate": 1,
        "m": _NUMBER,
        "k": _NUMBER,
        "row_blocks": _NUMBER,
        "col_blocks": _NUMBER,
        "left": _NUMBER,
        "right": _NUMBER,
        "split": _NUMBER,
        "right_split": _NUMBER,
        "result": _NUMBER,
    }
)
"""A GEMM with M rows and a reduction of K. Words lie in blocks: of the left operand `row_blocks` of M (WS) or K (OS)
words, of the right operand `col_blocks` of K words, of the result `col_blocks` of M words. Column block `split` and
those after it lie at `right_split`: the packed LoRA columns. accumulate: add to what lies at `result`."""

REQUANT = data.StructLayout(
    {
        "source": _NUMBER,
        "rows": _NUMBER,
        "group": _NUMBER,
        "target": 2,
        "address": _NUMBER,
        "exponents": _NUMBER,
        "bits": 4,
        "dither": 1,
        "hash": 32,
        "hash_step": _NUMBER,
    }
)
"""Codes of `rows` words of sums at `source`. group: rows that share a scale, or 0 for a scale a column. Their exponents
go to words of the result buffer at `exponents`, one a group with the exponent in every lane, or one word of columns.
hash: number of the first dither; hash_step: columns of the matrix."""

STORE = data.StructLayout({"address": _NUMBER, "count": _NUMBER})
"""`count` words of the result buffer to the output port."""

INSTRUCTION = data.StructLayout(
    {
        "op": 2,
        "after": len(ENGINES),
        "fields": data.UnionLayout({"load": LOAD, "gemm": GEMM, "requant": REQUANT, "store": STORE}),
    }
)


def encode(op: str, *, after: tuple[str, ...] = (), **fields: int) -> int:
    """The bits of an instruction: `encode("STORE", after=("GEMM",), address=0, count=4)`."""
    waits = sum(1 << ENGINES.index(engine) for engine in after)
    values = {"op": ENGINES.index(op), "after": waits, "fields": {op.lower(): fields}}
    return INSTRUCTION.const(values).as_value().value


assert EXPONENT_BITS <= 16  # an exponent is the lower 16 bits of a beat
