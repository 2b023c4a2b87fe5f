"""Full fine-tuning: every weight of the denoiser, in float. The upper bound in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intaglio.methods.base import Method, method

if TYPE_CHECKING:
    from torch import nn

    from intaglio.layers.timesteps import TimestepContext


@method("full")
class Full(Method):
    """Every weight, in float."""

    summary = "every weight of the denoiser, in float"
    needs_base = False
    default_targets = None
    trains_rest = True
    learning_rate = 1e-5

    def adapt(self, layer: nn.Linear | nn.Conv2d, context: TimestepContext, name: str) -> nn.Module:
        return layer.requires_grad_(True)
