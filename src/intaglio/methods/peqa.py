"""PEQA (Kim et al., NeurIPS 2023): frozen integers, a trainable scale per output channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intaglio.methods.base import Method, method

if TYPE_CHECKING:
    from torch import nn

    from intaglio.layers.timesteps import TimestepContext


@method("peqa")
class Peqa(Method):
    """One scale per output channel of a quantized base."""

    summary = "one scale per output channel of a quantized base"
    needs_base = True
    default_targets = None
    learning_rate = 1e-3

    def adapt(self, layer: nn.Linear | nn.Conv2d, context: TimestepContext, name: str) -> nn.Module:
        from intaglio.layers.scaled import ScaledLayer

        return ScaledLayer(layer, train_input=False)
