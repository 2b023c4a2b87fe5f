"""Two 4-bit codes in a byte: the even column in the low nibble, the odd one in the high nibble."""

from __future__ import annotations

import torch
from torch import Tensor


def pack_nibbles(codes: Tensor) -> Tensor:
    """Codes (O, K) of any integer dtype, range -8..15 -> uint8 (O, ceil(K / 2)).

    Only the low four bits are kept, so signed codes are stored in two's complement. An odd row ends with a zero nibble.
    """
    nibbles = codes.to(torch.uint8) & 0xF
    if codes.shape[1] % 2:
        nibbles = torch.nn.functional.pad(nibbles, (0, 1))
    return nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)


def unpack_nibbles(packed: Tensor, columns: int, *, signed: bool) -> Tensor:
    """uint8 (O, ceil(columns / 2)) -> int8 (O, columns), range -8..7 when `signed`, else 0..15."""
    codes = torch.empty(packed.shape[0], packed.shape[1], 2, dtype=torch.int8, device=packed.device)
    if signed:
        as_int8 = packed.view(torch.int8)
        codes[..., 0] = (as_int8 << 4) >> 4  # arithmetic shifts extend the sign
        codes[..., 1] = as_int8 >> 4
    else:
        codes[..., 0] = (packed & 0xF).view(torch.int8)
        codes[..., 1] = (packed >> 4).view(torch.int8)
    return codes.flatten(1)[:, :columns]
