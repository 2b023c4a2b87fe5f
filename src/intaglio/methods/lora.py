"""LoRA (Hu et al., ICLR 2022): a low-rank pair beside each float weight."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from intaglio.layers.low_rank import LowRankLayer, check_pair
from intaglio.layers.timesteps import TimestepContext
from intaglio.methods.base import ATTENTION_TARGETS, Method


@dataclass(frozen=True, kw_only=True)
class Lora(Method):
    """
    Args:
        rank: columns of the pair, at least 1.
        alpha: the update is scaled by alpha / rank; None means alpha = rank.
    """

    rank: int = 16
    alpha: float | None = None

    name = "lora"
    summary = "a low-rank pair beside each float weight"
    needs_base = False
    default_targets = ATTENTION_TARGETS
    learning_rate = 1e-3

    def __post_init__(self) -> None:
        check_pair(self.rank, self.alpha)

    def adapt(self, layer: nn.Linear | nn.Conv2d, context: TimestepContext, name: str) -> nn.Module:
        return LowRankLayer(layer, self.rank, self.rank if self.alpha is None else self.alpha)
