"""TuneQDM (Ryu et al., ECCV 2024): scales per output and input channel (MCSU), one set per timestep interval (TAS)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from intaglio.errors import UserError
from intaglio.layers.integer import check_gemms
from intaglio.layers.scaled import ScaledLayer, TimestepScaledLayer
from intaglio.layers.timesteps import TimestepContext
from intaglio.methods.base import Method


@dataclass(frozen=True, kw_only=True)
class TuneQDM(Method):
    """
    Args:
        base: format of the frozen weights; None takes the model's own, or int4 where the model is float.
        num_intervals: N of the paper; 1 trains one set for all timesteps, which can be merged.
        input_scales: False trains scales of output channels alone: the paper's ablation "TAS alone".
        relative_scales: a scale is trained as a share of itself, so one learning rate suits both sides and all layers.
            False trains scales of output channels as they are (about 1e-3 to 1e-1), as the official code does.
        integer_gemms: which products of the quantized layers run in integers: "output", "grad_input", both, or none.
    """

    base: str | None = None
    num_intervals: int = 4
    input_scales: bool = True
    relative_scales: bool = True
    integer_gemms: tuple[str, ...] = ()

    name = "tuneqdm"
    summary = "scales per output and input channel and timestep interval of a quantized base"
    needs_base = True
    default_targets = None
    learning_rate = 1e-3

    def __post_init__(self) -> None:
        if not 1 <= self.num_intervals <= 1000:
            raise UserError(f"num_intervals must be 1 to 1000, not {self.num_intervals}")
        object.__setattr__(self, "integer_gemms", check_gemms(self.integer_gemms))

    def frozen_integer_gemms(self) -> tuple[str, ...]:
        return self.integer_gemms

    def adapt(self, layer: nn.Linear | nn.Conv2d, context: TimestepContext, name: str) -> nn.Module:
        how = {"train_input": self.input_scales, "relative": self.relative_scales}
        if self.num_intervals == 1:
            return ScaledLayer(layer, **how)
        return TimestepScaledLayer(layer, context, self.num_intervals, **how)
