"""What an operation keeps of its input between forward and backward: the tensor itself, or INT8 codes of its rows."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from intaglio.errors import UnknownChoice
from intaglio.kernels.row_quantizer.op import quantize_rows

Keep = Literal["input", "codes"]
"""`input`: the tensor, by reference. `codes`: INT8, one scale a row; half of bfloat16, at most 1/254 of the largest
element of the row away."""
KEEPS = ("input", "codes")


def check_keep(keep: str) -> None:
    if keep not in KEEPS:
        raise UnknownChoice("keep", keep, KEEPS)


def codes_of(x_MC: Tensor, wanted: bool) -> tuple[Tensor, Tensor]:
    """Codes int8 (M, C) and scale float32 (M,) of `x` (M, C) by itself; both empty where they are not wanted."""
    if not wanted:
        return room_for_codes(x_MC, None)
    codes, scale = quantize_rows(x_MC[:, None])
    return codes[:, 0], scale


def room_for_codes(x: Tensor, rows: int | None) -> tuple[Tensor, Tensor]:
    """For codes int8 like `x` with `rows` scales float32, not filled in; None: neither, both empty."""
    codes = x.new_empty(0, dtype=torch.int8) if rows is None else torch.empty_like(x, dtype=torch.int8)
    return codes, x.new_empty(rows or 0, dtype=torch.float32)


def value_of(saved_MC: Tensor, scale_M: Tensor | None, dtype: torch.dtype) -> Tensor:
    """What was saved, (M, C) of `dtype`."""
    return saved_MC.to(dtype) if scale_M is None else saved_MC.to(dtype) * scale_M.to(dtype)[:, None]
