"""TuneQDM with scales that go over from one timestep interval to the next, instead of jumping at its border."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from intaglio.methods.base import Method, method

if TYPE_CHECKING:
    from torch import nn

    from intaglio.layers.timesteps import TimestepContext


@method("smooth_scales")
class SmoothScales(Method):
    """Scales per output and input channel, interpolated over the timesteps."""

    num_nodes: int = Field(4, ge=2, le=1000, description="scale sets; a timestep lies between two of them")

    summary = "scales per output and input channel, interpolated over the timesteps"
    needs_base = True
    default_targets = None
    learning_rate = 1e-3

    def adapt(self, layer: nn.Linear | nn.Conv2d, context: TimestepContext, name: str) -> nn.Module:
        from intaglio.layers.smooth_scaled import SmoothScaledLayer

        return SmoothScaledLayer(layer, context, self.num_nodes)
