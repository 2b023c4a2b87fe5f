"""What a product's operands need before they can enter the array, by how they lie in memory.

An edge takes one row of a buffer a cycle. So weight-stationary wants the left operand (M, K) and the right one (K, N)
row by row; output-stationary wants the left one's transpose. Of the products of a LoRA layer, with the weight stored as
(N, K), A as (r, K) and B as (N, r), what must be turned is:

    product                   weight-stationary   output-stationary
    y = x W^T, x A^T, h B^T   right               left, right
    dx = g W, g B, gh A       -                   left
    dB = g^T h, dA = gh^T x   left                -

A transposer at an edge turns blocks of rows x rows as they pass: area, energy a byte and `rows` cycles to fill once.
Where an edge has none, the lanes turn the operand, once, through its buffer.
"""

from __future__ import annotations

from typing import Literal

from intaglio.accelerator.dataflow import Dataflow, Float
from intaglio.accelerator.products import ROW_MAJOR, TRANSPOSED, Products

Edge = Literal["left", "right"]


def transposed_bytes(
    p: Products, left: Float, right: Float, transposers: tuple[Edge, ...], dataflow: Dataflow
) -> tuple[Float, dict[Edge, Float]]:
    """(bytes through transposers, bytes that the lanes turn by operand).

    Args:
        left, right: bytes that enter the edges.
    """
    wrong = {
        "left": p.left_stored == (TRANSPOSED if dataflow == "weight_stationary" else ROW_MAJOR),
        "right": p.right_stored == TRANSPOSED,
    }
    entering = {"left": left, "right": right}
    once: dict[Edge, Float] = {
        "left": p.batch * (p.M * p.K * p.left_bits / 8),
        "right": p.batch * (p.K * p.N * p.right_bits / 8),
    }
    on_edge = sum((entering[e] * wrong[e] for e in transposers), start=0.0 * left)
    by_lanes: dict[Edge, Float] = {e: once[e] * (wrong[e] if e not in transposers else 0) for e in once}
    return on_edge, by_lanes
