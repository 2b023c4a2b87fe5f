"""The kinds of work of the vector unit: cycles of a lane and words moved, an element, from `constants/vector.csv`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from intaglio.accelerator.constants import table

if TYPE_CHECKING:
    from intaglio.accelerator.hardware import Hardware


@cache
def _rows() -> dict[str, dict[str, str]]:
    return {row["kind"]: row for row in table("vector")}


@cache
def known_kinds() -> tuple[str, ...]:
    return tuple(_rows())


@cache
def _row(kind: str) -> dict[str, str]:
    return _rows().get(kind, _rows()["default"])


def cycles_per_element(hardware: Hardware, kind: str) -> float:
    """Of one lane: the hardware file's figure, else the table's."""
    if kind in hardware.vector.cycles_per_element:
        return hardware.vector.cycles_per_element[kind]
    return float(_row(kind)["cycles_per_element"])


def bytes_per_element(kind: str, result_bits: int) -> float:
    """Read and written, where nothing stays on chip. An optimizer's state has a width of its own."""
    row = _row(kind)
    width = float(row["word_bytes"]) if row["word_bytes"] else result_bits / 8
    return (float(row["reads"]) + float(row["writes"])) * width
