"""QLoRA (Dettmers et al., NeurIPS 2023): float low-rank adapters beside a frozen quantized base."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from intaglio.methods.base import ATTENTION_TARGETS, Alpha, Method, Rank, method

if TYPE_CHECKING:
    from torch import nn

    from intaglio.layers.timesteps import TimestepContext


@method("qlora")
class QLora(Method):
    """A low-rank adapter beside each quantized weight."""

    rank: Rank = Field(16, description="columns of lora_a")
    alpha: Alpha | None = Field(None, description="the update is scaled by alpha / rank; None means alpha = rank")

    summary = "a low-rank adapter beside each quantized weight"
    needs_base = True
    default_targets = ATTENTION_TARGETS
    learning_rate = 1e-3

    def adapt(self, layer: nn.Linear | nn.Conv2d, context: TimestepContext, name: str) -> nn.Module:
        from intaglio.layers.low_rank import LowRankLayer

        return LowRankLayer(layer, self.rank, self.rank if self.alpha is None else self.alpha)
