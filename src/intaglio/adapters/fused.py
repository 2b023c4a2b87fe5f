"""Low-rank factors of layers that another program holds as one weight: put together, and taken apart. Both exact."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from intaglio.adapters.state import LowRank
from intaglio.errors import UserError


def fuse(native: str, parts: Mapping[int, LowRank], sizes: tuple[int, ...]) -> LowRank:
    """One pair for a weight whose rows are those of all parts, one below the other; parts without a LoRA stay zero.

    Where all share `down`, as parts of a fused weight do, the rank stays; else it is the sum of the ranks.

    Raises:
        UserError: the parts' rows are not in the proportion of `sizes`.
    """
    units = {pair.up.shape[0] / sizes[part] for part, pair in parts.items()}
    unit = units.pop()
    if units or unit != int(unit):
        raise UserError(f"{native}: its parts have {[p.up.shape[0] for p in parts.values()]} rows, expected {sizes}")
    pairs = {part: pair.folded() for part, pair in parts.items()}
    first = next(iter(pairs.values()))
    shared = all(pair.rank == first.rank and torch.equal(pair.down, first.down) for pair in pairs.values())
    rank = first.rank if shared else sum(pair.rank for pair in pairs.values())
    up = first.up.new_zeros(int(unit) * sum(sizes), rank)
    column = 0
    for part, pair in pairs.items():
        top = int(unit) * sum(sizes[:part])
        up[top : top + len(pair.up), column : column + pair.rank] = pair.up
        column += 0 if shared else pair.rank
    down = first.down if shared else torch.cat([pair.down for pair in pairs.values()])
    return LowRank(down, up, float(rank))


def take_apart(native: str, pair: LowRank, sizes: tuple[int, ...]) -> list[LowRank | None]:
    """The parts of a fused pair, from the top; None for one that it does not change. Columns of zeros are left out.

    Raises:
        UserError: its rows are no multiple of `sizes`.
    """
    rows = pair.up.shape[0]
    if rows % sum(sizes) or pair.up.ndim != 2:
        raise UserError(f"{native}: {rows} rows, expected a multiple of {sum(sizes)} for {len(sizes)} parts")
    unit = rows // sum(sizes)
    return [_used(pair, up) for up in pair.up.split([unit * size for size in sizes])]


def _used(pair: LowRank, up: Tensor) -> LowRank | None:
    used = up.any(0)
    if not used.any():
        return None
    if used.all():
        return LowRank(pair.down, up.contiguous(), pair.alpha)
    rank = int(used.sum())
    return LowRank(pair.down[used], up[:, used], pair.scaling * rank)
