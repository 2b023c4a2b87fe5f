"""QLoRA (Dettmers et al., NeurIPS 2023): float low-rank pairs beside a frozen quantized base."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from intaglio.layers.integer import check_gemms
from intaglio.layers.low_rank import LowRankLayer, check_pair
from intaglio.layers.timesteps import TimestepContext
from intaglio.methods.base import ATTENTION_TARGETS, Method


@dataclass(frozen=True, kw_only=True)
class QLora(Method):
    """
    Args:
        rank: columns of the pair, at least 1.
        alpha: the update is scaled by alpha / rank; None means alpha = rank.
        base: format of the frozen weights; None takes the model's own, or int4 where the model is float.
        integer_gemms: which products of the quantized layers run in integers: "output", "grad_input", both, or none.
    """

    rank: int = 16
    alpha: float | None = None
    base: str | None = None
    integer_gemms: tuple[str, ...] = ()

    name = "qlora"
    summary = "a low-rank pair beside each quantized weight"
    needs_base = True
    default_targets = ATTENTION_TARGETS
    learning_rate = 1e-3

    def __post_init__(self) -> None:
        check_pair(self.rank, self.alpha)
        object.__setattr__(self, "integer_gemms", check_gemms(self.integer_gemms))

    def frozen_integer_gemms(self) -> tuple[str, ...]:
        return self.integer_gemms

    def adapt(self, layer: nn.Linear | nn.Conv2d, context: TimestepContext, name: str) -> nn.Module:
        return LowRankLayer(layer, self.rank, self.rank if self.alpha is None else self.alpha)
