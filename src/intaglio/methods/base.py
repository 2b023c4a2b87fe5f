"""What a method is: the answers to three questions.

1. In what format does the frozen base lie?  -> `base`, or float when the class has `needs_base = False`
2. What is trained?                          -> `adapt`, which turns one frozen layer into its trainable replacement
3. Which GEMMs run in integers?              -> `frozen_integer_gemms`; those of a trained layer are its own affair

A method is a frozen dataclass. The dataclass is its configuration: what TOML builds, what the command line lists, what
the adapter file stores. Finding layers, freezing, saving, loading and merging are shared and belong to no method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from intaglio.layers.timesteps import TimestepContext

ATTENTION_TARGETS = ("attention",)
"""The projections of attention, whose names a model's family knows: what LoRA trains by default."""


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    name: ClassVar[str]
    summary: ClassVar[str]
    """One line for `--help`."""
    needs_base: ClassVar[bool]
    """Whether the base is quantized. Methods with a base have a field `base`, a format's name."""
    default_targets: ClassVar[tuple[str, ...] | None]
    """What is trained by default: suffixes of names, "attention" for the family's, None for every Linear and Conv2d."""
    trains_rest: ClassVar[bool] = False
    """Whether norms, embeddings and the like are trained too."""
    default_base: ClassVar[str] = "int4"
    """Format that a float model is quantized to where `base` is None."""
    learning_rate: ClassVar[float]
    """A default that gives a good result with AdamW."""

    def frozen_integer_gemms(self) -> tuple[str, ...]:
        """Which products of the quantized layers run in integers: names of `layers.integer.GEMMS`."""
        return ()

    def attention_in_integers(self) -> bool:
        """Whether attention's own two products, Q K^T and P V, run in INT8 in the forward pass."""
        return False

    @abstractmethod
    def adapt(self, layer: nn.Linear | nn.Conv2d, context: TimestepContext, name: str) -> nn.Module:
        """The trainable replacement of one frozen layer, called `name` in the model; equal to it at the start."""
