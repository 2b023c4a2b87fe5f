"""Latents as tokens: each 2 x 2 pixels of every channel in one."""

from __future__ import annotations

from torch import Tensor


def pack(latents: Tensor) -> Tensor:
    """(B, C, h, w) of even sides -> (B, h w / 4, 4 C), channels outside, rows before columns within a token."""
    batch, channels, height, width = latents.shape
    tokens = latents.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return tokens.reshape(batch, (height // 2) * (width // 2), 4 * channels)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """(B, h w / 4, 4 C) -> (B, C, h, w)."""
    batch, _, channels = tokens.shape
    latents = tokens.reshape(batch, height // 2, width // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return latents.reshape(batch, channels // 4, height, width)
