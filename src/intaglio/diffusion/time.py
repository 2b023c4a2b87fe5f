"""What a denoiser is told for a time, and back: t in [0, 1], where 0 is data and 1 is noise.

Times are float64 on the CPU until they enter a denoiser: in bfloat16 t = 750 of 1000 would be 752, and thus another
noise level and, at the border of a timestep interval, another interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class TimeConvention(Protocol):
    def to_model(self, t: Tensor) -> Tensor:
        """t (B,) in [0, 1] -> what the denoiser is called with, (B,)."""
        ...

    def from_model(self, told: Tensor) -> Tensor:
        """What the denoiser was called with, (B,) of any dtype -> t, float64 (B,) in [0, 1]."""
        ...


@dataclass(frozen=True)
class Steps:
    """Integer steps 0 .. total - 1, as of DDPM."""

    total: int = 1000

    def to_model(self, t: Tensor) -> Tensor:
        return (t.double() * self.total).round().long()

    def from_model(self, told: Tensor) -> Tensor:
        return (told.double() / self.total).clamp(0, 1)


@dataclass(frozen=True)
class Scaled:
    """`t * scale`, in float32: 1000 for Stable Diffusion 3 and Sana, 1 for FLUX and most others."""

    scale: float = 1.0

    def to_model(self, t: Tensor) -> Tensor:
        return (t.double() * self.scale).float()

    def from_model(self, told: Tensor) -> Tensor:
        return (told.double() / self.scale).clamp(0, 1)


@dataclass(frozen=True)
class Reversed:
    """`1 - t`, in float32: Z-Image and Lumina 2, whose time grows towards the data."""

    def to_model(self, t: Tensor) -> Tensor:
        return (1 - t.double()).float()

    def from_model(self, told: Tensor) -> Tensor:
        return (1 - told.double()).clamp(0, 1)


def column(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ..., 1) on the device of `like`, in the dtype it has."""
    return values.to(like.device).reshape(-1, *([1] * (like.ndim - 1)))


def as_times(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
