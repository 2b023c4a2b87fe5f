"""How the tensors of a step of `int8_lora` become integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class IntegerArithmetic:
    activation_bits: int = 8
    """Bits of x and of h = x a^T, 2 .. 8."""
    gradient_bits: int = 8
    """Bits of the gradient of the output and of gh = g b, 2 .. 8."""
    rounding: Literal["nearest", "stochastic"] = "nearest"
    """Of the operands that are summed over tokens in the adapter's gradients; all others round to nearest."""
    scale: Literal["float", "power_of_two"] = "float"
    granularity: Literal["token", "tensor"] = "token"
    """What of x, g, h and gh shares a scale: a token (all of a sample in a convolution, whose taps mix tokens), or
    everything."""
    integer_adapter: bool = False
    """Hold the adapter as INT8 values (`CodesTensor`)."""
    separate_gradient: bool = False
    """Quantize g a second time, without the weight's scales, for the adapter's two gradients; `b` is then in its own
    units. Costs a pass over g and a product of its own for `gh`, see docs/int8_lora.md."""

    @property
    def power_of_two(self) -> bool:
        return self.scale == "power_of_two"

    @property
    def plain(self) -> bool:
        """Whether this is the arithmetic that is compiled as one call a direction (`kernels/integer_lora`)."""
        chosen = self.activation_bits, self.gradient_bits, self.scale, self.rounding, self.granularity
        return chosen == (8, 8, "float", "nearest", "token") and not self.separate_gradient
