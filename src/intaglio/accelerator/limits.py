"""What tiles must respect, and the error when a product fits in no way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from intaglio.accelerator.dataflow import Dataflow, Float
from intaglio.accelerator.hardware import Array, Hardware
from intaglio.accelerator.products import Products
from intaglio.errors import UserError

INT32 = 32  # the definition's sums: wider accumulators than these are never asked for


@dataclass(frozen=True, slots=True)
class Limits:
    """Usable bytes of the three buffers, array size, width of sums and results."""

    input_bytes: float
    weight_bytes: float
    output_bytes: float
    rows: int
    cols: int
    accumulator_bits: int
    result_bits: int


def limits_of(hardware: Hardware) -> Limits:
    """Half of a buffer is usable where the other half is filled meanwhile."""
    b, array = hardware.buffers, hardware.array
    usable = 2 if b.double_buffered else 1
    return Limits(
        b.input.size_bytes / usable,
        b.weight.size_bytes / usable,
        b.output.size_bytes / usable,
        array.rows,
        array.cols,
        array.accumulator_bits,
        array.result_bits,
    )


def require_room(p: Products, names: list[str], limits: Limits, dataflows: tuple[Dataflow, ...]) -> None:
    """Raise a `UserError` (demand, bound, gap, what would help) when a product fits under no dataflow."""
    fits = np.any([fits_a_fold(p, limits, d) for d in dataflows], axis=0)
    if fits.all():
        return
    i = int(np.argmin(fits))
    M, N, K = int(p.M[i]), int(p.N[i]), int(p.K[i])
    lines = [
        f"{names[i]}: the product M={M} N={N} K={K} does not fit on this accelerator, nor do "
        f"{int((~fits).sum()) - 1} others"
    ]
    for dataflow in dataflows:
        for buffer, demand, bound in _demands(p, limits, dataflow):
            need, have = float(demand[i]), float(bound)
            if need > have:
                lines.append(
                    f"  {dataflow}: one fold needs {need:,.0f} bytes of the {buffer} buffer, usable are {have:,.0f}, "
                    f"short of {need - have:,.0f}"
                )
    lines.append(
        "  what would help: a larger buffer, double_buffered = false (doubles what is usable, and nothing overlaps), "
        "fewer rows or cols, fewer operand_bits, or the other dataflow in `modes`"
    )
    raise UserError("\n".join(lines))


def _demands(p: Products, limits: Limits, dataflow: Dataflow) -> list[tuple[str, Float, float]]:
    """Bytes that the smallest schedule, a fold at a time, holds in each buffer."""
    n = np.minimum(p.N, limits.cols)
    on_rows = np.minimum(p.K if dataflow == "weight_stationary" else p.M, limits.rows)
    sums = limits.accumulator_bits / 8
    if dataflow == "weight_stationary":
        weight, output = on_rows * n * p.right_bits / 8, n * sums
    else:
        weight, output = n * p.right_bits / 8, on_rows * n * sums
    return [
        ("input", on_rows * p.left_bits / 8, limits.input_bytes),
        ("weight", weight, limits.weight_bytes),
        ("output", output, limits.output_bytes),
    ]


def fits_a_fold(p: Products, limits: Limits, dataflow: Dataflow) -> NDArray[np.bool_]:
    return np.all([demand <= bound for _, demand, bound in _demands(p, limits, dataflow)], axis=0)


def sum_bits(p: Products) -> NDArray[np.int64]:
    """Bits of a register that holds every sum: K products of the most negative numbers, and a sign."""
    largest = p.left_bits + p.right_bits - 2  # log2 of one product
    return largest + np.floor(np.log2(p.K)).astype(np.int64) + 2


def require_sums(p: Products, names: list[str], array: Array) -> None:
    """Raise a `UserError` when an integer array's accumulators could overflow."""
    need = np.minimum(sum_bits(p), INT32)
    i = int(np.argmax(need))
    if array.number == "integer" and need[i] > array.accumulator_bits:
        raise UserError(
            f"{names[i]}: a sum of K={int(p.K[i])} products of {int(p.left_bits[i])} by {int(p.right_bits[i])} bits "
            f"needs {int(need[i])} bits, array.accumulator_bits is {array.accumulator_bits}: as would "
            f"{int((need > array.accumulator_bits).sum()) - 1} other products. Expected {int(need[i])} or more"
        )
