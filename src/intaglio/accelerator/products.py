"""Products as arrays: one row an operation, sizes, widths, what is on chip, and how the operands lie in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

from intaglio.accelerator.dataflow import Float, Int

# How an operand lies in memory: as the array needs it (unknown, or given so), its rows contiguous, or its columns.
AS_NEEDED, ROW_MAJOR, TRANSPOSED = 0, 1, 2
LARGEST = 2**28  # of one dimension: products of two and a width then fit into 64 bits


@dataclass(frozen=True)
class Products:
    """Products `left_MK @ right_KN`, one row an operation; every field is an array of the same length.

    batch: equal products over other data, back to back; count: occurrences in the step.
    left_bits, right_bits: width in the trace. left_on_chip, right_on_chip, result_on_chip: never travels to DRAM.
    left_stored, right_stored: AS_NEEDED, ROW_MAJOR or TRANSPOSED (the memory holds its transpose, row by row).
    attention: 1 in the forward, 2 in the backward pass of an attention whose scores stay on chip; else 0.
    taps .. in_pixels: the window of a convolution, whose left operand is smaller than M x K (1, 1, ... for a plain
    product):
    taps = kernel_h * kernel_w, reach = (kernel - 1) * dilation + 1, out_w and in_w row lengths, in_pixels the whole
    input.
    pixels_on_reduction: the window's pixels lie on K (the gradient of a convolution's weight), not on M.
    """

    M: Int
    N: Int
    K: Int
    batch: Int
    count: Int
    left_bits: Int
    right_bits: Int
    left_on_chip: Int
    right_on_chip: Int
    result_on_chip: Int
    left_stored: Int
    right_stored: Int
    attention: Int
    taps: Int
    stride: Int
    reach: Int
    out_w: Int
    in_w: Int
    in_pixels: Int
    pixels_on_reduction: Int

    def __len__(self) -> int:
        return len(self.M)

    @cached_property
    def macs(self) -> Float:
        """Useful multiply-accumulates of each row, batch and count included."""
        return self.macs_once * self.count

    @cached_property
    def macs_once(self) -> Float:
        """Multiply-accumulates of one occurrence, with its whole batch."""
        return self.M.astype(np.float64) * self.N * self.K * self.batch

    @property
    def total_macs(self) -> int:
        """Of all rows; exact at any size."""
        columns = (self.M, self.N, self.K, self.batch, self.count)
        return sum(m * n * k * b * c for m, n, k, b, c in zip(*(v.tolist() for v in columns), strict=True))

    def take(self, index: Int | list[int]) -> Products:
        return Products(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def join(self, other: Products) -> Products:
        """The rows of both, one after the other."""
        return Products(
            **{f.name: np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)}
        )

    def cut(self, dimension: str, rows: Int, cuts: Int) -> Products:
        """Of the rows `rows`, cut at `cuts` of a dimension: all first parts, then all second ones."""
        p = self.take(rows)
        return replace(p, **{dimension: cuts}).join(replace(p, **{dimension: getattr(p, dimension) - cuts}))

    def unique(self) -> tuple[Products, Int]:
        """The distinct products (count set to 1) and, for each row, which one it is."""
        alone = replace(self, count=np.ones_like(self.count))
        table = np.column_stack([getattr(alone, f.name) for f in fields(self)])
        distinct, inverse = np.unique(table, axis=0, return_inverse=True)
        columns = {f.name: np.ascontiguousarray(distinct[:, i]) for i, f in enumerate(fields(self))}
        return Products(**columns), inverse.reshape(-1)

    def transposed(self) -> Products:
        """The same results as `right^T @ left^T`. A convolution and an attention in blocks stay as they are."""
        plain = (self.taps == 1) & (self.attention == 0)
        swap = {"M": "N", "left_bits": "right_bits", "left_on_chip": "right_on_chip"}
        changed = {
            a: np.where(plain, getattr(self, b), getattr(self, a))
            for a, b in (swap | {b: a for a, b in swap.items()}).items()
        }
        changed["left_stored"] = np.where(plain, _flipped(self.right_stored), self.left_stored)
        changed["right_stored"] = np.where(plain, _flipped(self.left_stored), self.right_stored)
        return replace(self, **changed)


def _flipped(stored: Int) -> Int:
    """How the transpose of an operand lies."""
    return np.array([AS_NEEDED, TRANSPOSED, ROW_MAJOR])[stored]


_PLAIN = {f.name: 0 for f in fields(Products)} | dict.fromkeys(
    ("batch", "count", "taps", "stride", "reach", "out_w", "in_w"), 1
)
_PLAIN |= {"left_bits": 8, "right_bits": 8}


def products_of(rows: Sequence[dict[str, int]]) -> Products:
    """Build from one dictionary a row; what is missing is a plain product's."""
    columns = {
        f.name: np.array([row[f.name] if f.name in row else _PLAIN[f.name] for row in rows], dtype=np.int64)
        for f in fields(Products)
    }
    return Products(**columns)


def too_large(row: dict[str, int]) -> str:
    """What is wrong with the size of a product; empty when nothing is."""
    for name in ("M", "N", "K", "batch", "count"):
        if row.get(name, 1) > LARGEST:
            return f"{name} must be at most 2^28, got {row[name]}"
    macs = row["M"] * row["N"] * row["K"] * row.get("batch", 1) * row.get("count", 1)
    return f"{macs:.3g} multiply-accumulates, expected at most 2^63" if macs > 2**63 else ""
