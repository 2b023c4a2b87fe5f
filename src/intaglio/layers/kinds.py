"""The kinds of trainable layer, told by type."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import nn

from intaglio.layers.fixed_dtype import FixedDtype
from intaglio.layers.timesteps import TimestepContext

_SIZES = ("in_features", "out_features", "in_channels", "out_channels", "kernel_size", "stride", "padding")


class AdapterLayer(FixedDtype, ABC):
    """Trains something beside a frozen `base` layer, and equals it at the start."""

    layout: ClassVar[str]
    """File layout of its tensors: "lora" (the ecosystem's names) or "scales" (ours)."""
    base: nn.Linear | nn.Conv2d

    def __getattr__(self, name: str) -> Any:
        """Pipelines ask layers for their sizes: XL's for `add_embedding.linear_1.in_features`."""
        if name in _SIZES:
            return getattr(self.base, name)
        return super().__getattr__(name)


class MergeableLayer(AdapterLayer):
    """Can be folded into its base."""

    @abstractmethod
    def why_not_merge(self) -> str | None:
        """Why the base's format cannot hold what was trained, and the way out; None when it can."""

    @abstractmethod
    def merge(self) -> nn.Linear | nn.Conv2d:
        """The base with what was trained folded in exactly (up to one rounding of a float).

        Only when `why_not_merge` is None.
        """

    @abstractmethod
    def merged_float(self) -> nn.Linear | nn.Conv2d:
        """A float layer of the dequantized base with what was trained folded in."""


class TimestepLayer(AdapterLayer):
    """Takes one timestep per sample, through the model's context."""

    context: TimestepContext
    num_intervals: int
