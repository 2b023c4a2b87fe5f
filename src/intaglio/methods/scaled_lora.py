"""Scales on every layer, a small low-rank pair on attention's projections: the bytes of TuneQDM's N scale sets, spent
on one set and on a rank."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from intaglio.layers.integer import check_gemms
from intaglio.layers.low_rank import check_pair
from intaglio.layers.scaled import ScaledLayer
from intaglio.layers.scaled_low_rank import ScaledLowRankLayer
from intaglio.layers.timesteps import TimestepContext
from intaglio.methods.base import Method


@dataclass(frozen=True, kw_only=True)
class ScaledLora(Method):
    """
    Args:
        rank: columns of the pair, at least 1.
        alpha: the update is scaled by alpha / rank; None means alpha = rank.
        base: format of the frozen weights; None takes the model's own, or int4 where the model is float.
        integer_gemms: which products of the quantized layers run in integers: "output", "grad_input", both, or none.
    """

    rank: int = 8
    alpha: float | None = None
    base: str | None = None
    integer_gemms: tuple[str, ...] = ()

    name = "scaled_lora"
    summary = "scales on every layer of a quantized base, a low-rank pair on attention"
    needs_base = True
    default_targets = None
    learning_rate = 3e-3

    def __post_init__(self) -> None:
        check_pair(self.rank, self.alpha)
        object.__setattr__(self, "integer_gemms", check_gemms(self.integer_gemms))

    def frozen_integer_gemms(self) -> tuple[str, ...]:
        return self.integer_gemms

    def adapt(self, layer: nn.Linear | nn.Conv2d, context: TimestepContext, name: str) -> nn.Module:
        if not any(name == target or name.endswith("." + target) for target in context.attention_targets):
            return ScaledLayer(layer, train_input=True)
        return ScaledLowRankLayer(layer, self.rank, self.rank if self.alpha is None else self.alpha)
