"""An attention whose scores never leave the chip: block after block of queries, all its products at once.

A block of B queries meets the keys and values a column fold at a time; the output buffer holds its scores (and, in the
backward pass, their gradient) for that fold and its results, B x (C + D) or B x (2 C + D) sums. So B is what that
buffer allows, keys and values pass once for each of the ceil(T / B) blocks unless all of them stay in the weight
buffer, and the gradients of keys and values are partial sums that come and go with each block unless they stay in
half of the output buffer. Softmax is the one that carries a running maximum.

An operand that a second product of the same block needs is there already: `right_on_chip` says so.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from intaglio.accelerator.dataflow import Dataflow, ceil_div
from intaglio.accelerator.limits import Limits
from intaglio.accelerator.products import TRANSPOSED, Products


def attention_blocks(p: Products, limits: Limits, dataflow: Dataflow) -> dict[str, NDArray]:
    """Pieces, bytes of the three operands (infinite: no block fits) and tile of every product of such an attention."""
    scores = p.result_on_chip == 1
    of_keys = (p.left_on_chip == 1) & (p.left_stored == TRANSPOSED)  # gradients of keys and values: T is reduced
    T = np.where(of_keys, p.K, p.M)
    S = np.where(scores, p.N, np.where(of_keys, p.M, p.K))
    D = np.where(scores, p.K, p.N)
    sums, width = limits.accumulator_bits / 8, p.left_bits / 8
    fold = np.minimum(S, limits.cols)
    kept_gradients = (p.attention == 2) & (2 * S * D * sums <= limits.output_bytes / 2)
    room = limits.output_bytes / np.where(kept_gradients, 2, 1)
    block = np.minimum(room // (sums * (p.attention * fold + D)), limits.input_bytes // (width * (fold + D)))
    block = block.astype(np.int64)
    block = np.minimum(np.where(block > limits.rows, block // limits.rows * limits.rows, block), T)
    fits = (block >= 1) & (2 * fold * D * p.right_bits / 8 <= limits.weight_bytes)
    blocks = ceil_div(T, np.maximum(block, 1))
    keys_stay = 2 * S * D * p.right_bits / 8 <= limits.weight_bytes
    left = p.M * p.K * p.left_bits / 8 * (p.left_on_chip == 0)
    again = np.where(of_keys | keys_stay, 1, blocks)
    right = p.K * p.N * p.right_bits / 8 * (p.right_on_chip == 0) * again
    spills = np.where(of_keys & ~kept_gradients, blocks - 1, 0)
    result = p.M * p.N * (p.result_on_chip == 0) * (limits.result_bits / 8 + 2 * sums * spills)
    cut = of_keys == (dataflow == "output_stationary")  # whether what streams is what the blocks cut
    tile = ceil_div(T, blocks)
    return {
        "pieces": np.where(cut, blocks, 1),
        "left": np.where(fits, left, np.inf),
        "right": right,
        "result": result,
        "m": np.where(of_keys, p.M, tile),
        "n": p.N,
        "k": np.where(of_keys, tile, p.K),
    }
