"""PEQA (Kim et al., NeurIPS 2023): frozen integers, a trainable scale per output channel."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from intaglio.layers.integer import check_gemms
from intaglio.layers.scaled import ScaledLayer
from intaglio.layers.timesteps import TimestepContext
from intaglio.methods.base import Method


@dataclass(frozen=True, kw_only=True)
class Peqa(Method):
    """
    Args:
        base: format of the frozen weights; None takes the model's own, or int4 where the model is float.
        integer_gemms: which products of the quantized layers run in integers: "output", "grad_input", both, or none.
    """

    base: str | None = None
    integer_gemms: tuple[str, ...] = ()

    name = "peqa"
    summary = "one scale per output channel of a quantized base"
    needs_base = True
    default_targets = None
    learning_rate = 1e-3

    def __post_init__(self) -> None:
        object.__setattr__(self, "integer_gemms", check_gemms(self.integer_gemms))

    def frozen_integer_gemms(self) -> tuple[str, ...]:
        return self.integer_gemms

    def adapt(self, layer: nn.Linear | nn.Conv2d, context: TimestepContext, name: str) -> nn.Module:
        return ScaledLayer(layer, train_input=False)
