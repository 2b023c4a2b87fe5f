"""TuneQDM (Ryu et al., ECCV 2024): scales per output and input channel (MCSU), one set per timestep interval (TAS)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from intaglio.methods.base import Method, method

if TYPE_CHECKING:
    from torch import nn

    from intaglio.layers.timesteps import TimestepContext


@method("tuneqdm")
class TuneQDM(Method):
    """Scales per output and input channel and timestep interval of a quantized base.

    `relative_scales`: a scale is trained as a share of itself, so one learning rate suits both sides and all layers.
    False trains scales of output channels as they are (about 1e-3 to 1e-1), as the official code does.
    """

    num_intervals: int = Field(4, ge=1, le=1000, description="timestep intervals (N of the paper); 1 can be merged")
    input_scales: bool = Field(True, description="scales of input channels too; no: the paper's 'TAS alone'")
    relative_scales: bool = Field(True, description="train a scale as a share of itself; no: as the official code does")

    summary = "scales per output and input channel and timestep interval of a quantized base"
    needs_base = True
    default_targets = None
    learning_rate = 1e-3

    def adapt(self, layer: nn.Linear | nn.Conv2d, context: TimestepContext, name: str) -> nn.Module:
        from intaglio.layers.scaled import ScaledLayer, TimestepScaledLayer

        if self.num_intervals == 1:
            return ScaledLayer(layer, train_input=self.input_scales, relative=self.relative_scales)
        return TimestepScaledLayer(
            layer, context, self.num_intervals, train_input=self.input_scales, relative=self.relative_scales
        )
