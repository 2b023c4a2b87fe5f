"""What an exploration may vary, and how a value changes a design: an axis that is not used changes nothing."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt

from intaglio.accelerator.dataflow import ArrayOverlap
from intaglio.accelerator.hardware import Bits, Hardware, Table

MODES = {
    "both": ("weight_stationary", "output_stationary"),
    "weight_stationary": ("weight_stationary",),
    "output_stationary": ("output_stationary",),
}
TRANSPOSERS = {"none": (), "left": ("left",), "right": ("right",), "both": ("left", "right")}
# Axes that are one key of the hardware file.
PATHS = {
    "rows": "array__rows",
    "cols": "array__cols",
    "bits": "array__operand_bits",
    "double_buffered": "buffers__double_buffered",
    "fused_attention": "schedule__fused_attention",
    "cut": "schedule__cut",
    "packing": "schedule__packing",
    "operand_swap": "schedule__operand_swap",
    "split": "schedule__split",
    "partition": "array__partition",
    "overlap": "array__overlap",
    "lanes": "vector__lanes",
    "clock_mhz": "array__clock_mhz",
    "bandwidth_gbytes_per_s": "dram__bandwidth_gbytes_per_s",
}
TILING_AXES = ("rows", "cols", "bits", "input_kib", "weight_kib", "output_kib", "double_buffered")


class Axes(Table):
    """Values to try; an axis that is left out keeps the base's value.

    port_width: elements a row (input) or column (weight, output) that a buffer passes each cycle.
    lanes_per_col: vector lanes a column. The order is that of the grid's index: what decides tilings comes first.
    """

    rows: tuple[PositiveInt, ...] = ()
    cols: tuple[PositiveInt, ...] = ()
    bits: tuple[Bits, ...] = ()
    input_kib: tuple[PositiveInt, ...] = ()
    weight_kib: tuple[PositiveInt, ...] = ()
    output_kib: tuple[PositiveInt, ...] = ()
    double_buffered: tuple[bool, ...] = ()
    fused_attention: tuple[bool, ...] = ()
    cut: tuple[bool, ...] = ()
    packing: tuple[bool, ...] = ()
    modes: tuple[Literal["both", "weight_stationary", "output_stationary"], ...] = ()
    transposers: tuple[Literal["none", "left", "right", "both"], ...] = ()
    operand_swap: tuple[bool, ...] = ()
    split: tuple[bool, ...] = ()
    partition: tuple[Literal["1x1", "2x2", "4x4"], ...] = ()
    overlap: tuple[ArrayOverlap, ...] = ()
    port_width: tuple[PositiveFloat, ...] = ()
    lanes: tuple[PositiveInt, ...] = ()
    lanes_per_col: tuple[PositiveFloat, ...] = ()
    clock_mhz: tuple[PositiveFloat, ...] = ()
    bandwidth_gbytes_per_s: tuple[PositiveFloat, ...] = ()


def design_at(base: Hardware, point: dict[str, Any]) -> Hardware:
    """The base with a point's values. Where the array's sides or widths change, ports and lanes follow."""
    changes = {path: point[name] for name, path in PATHS.items() if name in point}
    changes |= {f"buffers__{n}__size_bytes": point[f"{n}_kib"] * 1024 for n in BUFFERS if f"{n}_kib" in point}
    if "modes" in point:
        changes["array__modes"] = MODES[point["modes"]]
    if "transposers" in point:
        changes["array__transposers"] = TRANSPOSERS[point["transposers"]]
    rows, cols = point.get("rows", base.array.rows), point.get("cols", base.array.cols)
    if point.keys() & {"rows", "cols", "bits", "port_width"}:
        bits = point.get("bits", base.array.operand_bits)
        for name in BUFFERS:
            now = _bytes_of_one_element_each(name, rows, cols, bits, base.array.accumulator_bits)
            changes[f"buffers__{name}__bandwidth_bytes_per_cycle"] = now * point.get(
                "port_width", _port_width(base, name)
            )
    if point.keys() & {"cols", "lanes_per_col"} and "lanes" not in point:
        lanes = point.get("lanes_per_col", base.vector.lanes / base.array.cols)
        changes["vector__lanes"] = max(1, round(lanes * cols))
    return base.replaced(**changes)


BUFFERS = ("input", "weight", "output")


def _bytes_of_one_element_each(buffer: str, rows: int, cols: int, bits: int, sum_bits: int) -> float:
    """Of one element for each row or column that the buffer serves."""
    return {"input": rows * bits, "weight": cols * bits, "output": cols * sum_bits}[buffer] / 8


def _port_width(base: Hardware, buffer: str) -> float:
    array = base.array
    one = _bytes_of_one_element_each(buffer, array.rows, array.cols, array.operand_bits, array.accumulator_bits)
    return getattr(base.buffers, buffer).bandwidth_bytes_per_cycle / one
