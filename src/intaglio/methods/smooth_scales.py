"""TuneQDM with scales that go over from one timestep interval to the next, instead of jumping at its border."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from intaglio.errors import UserError
from intaglio.layers.integer import check_gemms
from intaglio.layers.smooth_scaled import SmoothScaledLayer
from intaglio.layers.timesteps import TimestepContext
from intaglio.methods.base import Method


@dataclass(frozen=True, kw_only=True)
class SmoothScales(Method):
    """
    Args:
        base: format of the frozen weights; None takes the model's own, or int4 where the model is float.
        num_nodes: scale sets; a timestep takes from the two nodes that it lies between.
        integer_gemms: which products of the quantized layers run in integers: "output", "grad_input", both, or none.
    """

    base: str | None = None
    num_nodes: int = 4
    integer_gemms: tuple[str, ...] = ()

    name = "smooth_scales"
    summary = "scales per output and input channel, interpolated over the timesteps"
    needs_base = True
    default_targets = None
    learning_rate = 1e-3

    def __post_init__(self) -> None:
        if not 2 <= self.num_nodes <= 1000:
            raise UserError(f"num_nodes must be 2 to 1000, not {self.num_nodes}; one set is tuneqdm, num_intervals=1")
        object.__setattr__(self, "integer_gemms", check_gemms(self.integer_gemms))

    def frozen_integer_gemms(self) -> tuple[str, ...]:
        return self.integer_gemms

    def adapt(self, layer: nn.Linear | nn.Conv2d, context: TimestepContext, name: str) -> nn.Module:
        return SmoothScaledLayer(layer, context, self.num_nodes)
