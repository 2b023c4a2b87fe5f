"""Scales on every layer, a small LoRA on attention's projections: the bytes of TuneQDM's N scale sets, spent on one
set and on a rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from intaglio.methods.base import Alpha, Method, Rank, method

if TYPE_CHECKING:
    from torch import nn

    from intaglio.layers.timesteps import TimestepContext


@method("scaled_lora")
class ScaledLora(Method):
    """Scales on every layer of a quantized base, a LoRA on attention."""

    rank: Rank = Field(8, description="columns of lora_a")
    alpha: Alpha | None = Field(None, description="the update is scaled by alpha / rank; None means alpha = rank")

    summary = "scales on every layer of a quantized base, a LoRA on attention"
    needs_base = True
    default_targets = None
    learning_rate = 3e-3

    def adapt(self, layer: nn.Linear | nn.Conv2d, context: TimestepContext, name: str) -> nn.Module:
        from intaglio.layers.names import ends
        from intaglio.layers.scaled import ScaledLayer
        from intaglio.layers.scaled_low_rank import ScaledLowRankLayer

        if not ends(name, context.attention_targets):
            return ScaledLayer(layer, train_input=True)
        return ScaledLowRankLayer(layer, self.rank, self.rank if self.alpha is None else self.alpha)
