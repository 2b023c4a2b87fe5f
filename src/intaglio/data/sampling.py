"""Which photos a step sees: a pure function of seed, step and rank, so that a resumed run goes on bit for bit.

All photos stand in one endless row of positions: a permutation of the photos for epoch 0, another one for epoch 1, and
so on. Step `s` on `w` processes with `b` photos each takes the `b w` positions from `s b w`; rank `r` takes the
`r`-th run of `b`. So `w` processes see exactly what one process with the batch `b w` sees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np


def batch_positions(step: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> range:
    """Positions of this rank's batch in the endless row. `step` counts calls of the model: under gradient accumulation
    it is `optimizer_step * accumulation + micro_step`."""
    if batch_size < 1 or not 0 <= rank < world_size:
        raise ValueError(f"need batch_size >= 1 and 0 <= rank < world_size, not {batch_size}, {rank}, {world_size}")
    start = (step * world_size + rank) * batch_size
    return range(start, start + batch_size)


def batch_indices(
    step: int, *, seed: int, num_items: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> list[int]:
    """Indices in [0, num_items) of this rank's batch, without replacement inside an epoch."""
    if num_items < 1:
        raise ValueError(f"num_items must be at least 1, not {num_items}")
    positions = batch_positions(step, batch_size=batch_size, rank=rank, world_size=world_size)
    return [epoch_order(seed, p // num_items, num_items)[p % num_items] for p in positions]


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, num_items: int) -> tuple[int, ...]:
    """The permutation of one epoch. It sorts raw Philox words, whose stream NumPy keeps over its versions."""
    words = np.random.Philox(key=derive_seed("order", seed, epoch)).random_raw(num_items)
    return tuple(int(i) for i in np.argsort(words, kind="stable"))


def repeated(repeats: Sequence[int]) -> list[int]:
    """Photo indices of one epoch: photo `i` stands in it `repeats[i]` times."""
    return [index for index, times in enumerate(repeats) for _ in range(times)]


def derive_seed(*parts: int | str) -> int:
    """63 well-mixed bits from whole numbers and names, the same on every machine."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
