"""Fully quantized LoRA training, after CDM-QTA (Lu et al., ISCAS 2025): weights, activations and gradients are integers
in all eight GEMMs of a trained layer. docs/int8_lora.md has the equations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from intaglio.errors import UserError
from intaglio.methods.base import Alpha, Method, Names, Rank, method

if TYPE_CHECKING:
    from torch import nn

    from intaglio.layers.timesteps import TimestepContext
    from intaglio.quantizers.formats import Format


@method("int8_lora")
class Int8Lora(Method):
    """A LoRA beside every quantized layer, every GEMM of it in integers.

    A trained layer whose base is float (named by `keep_float`) computes in float. Norms, the loss, the optimizer and,
    without `integer_attention`, attention's own two GEMMs are float too. With `scale="power_of_two"` every
    requantization is a shift, and the NumPy definition of the step (`quantizers/integer_step.py`) is equalled bit for
    bit. `integer_adapter` holds the adapter as INT8 and trains it with 8-bit moments and stochastic rounding
    (`training/integer_adam.py`); the file is the same.
    """

    rank: Rank = Field(2, description="columns of lora_a")
    alpha: Alpha | None = Field(None, description="the update is scaled by alpha / rank; None means alpha = rank")
    activation_bits: int = Field(8, ge=2, le=8, description="bits of what enters a GEMM in the forward pass")
    gradient_bits: int = Field(8, ge=2, le=8, description="bits of what enters a GEMM in the backward pass")
    rounding: Literal["nearest", "stochastic"] = Field(
        "nearest", description="how gradients are rounded before the sum over tokens"
    )
    scale: Literal["float", "power_of_two"] = Field("float", description="scales of activations and gradients")
    granularity: Literal["token", "tensor"] = Field("token", description="what shares a scale")
    separate_gradient: bool = Field(False, description="quantize gradients again for the adapter's own: more exact")
    integer_adapter: bool = Field(False, description="hold the adapter as INT8, with 8-bit moments")
    float_layers: Names = Field((), description="ends of names of trained layers that compute in float")
    integer_attention: bool = Field(False, description="attention's own GEMMs of the forward pass in INT8")

    summary = "a LoRA beside each quantized weight, every GEMM of it in integers"
    needs_base = True
    default_targets = None
    integer_only = True
    low_rank = True
    learning_rate = 1e-3

    def check_base(self, format: Format) -> None:
        """Refuse a base whose integers do not stand for the weight up to one factor per output channel."""
        plain = format.symmetric and format.levels is None and format.rotation is None
        if format.group_size is not None or not plain:
            raise UserError(
                f"int8_lora cannot train over {format.name}: its GEMMs need one scale per output channel and no zero "
                "point. Use base int8, int7, int6, int5 or int4, or method qlora, which takes every format"
            )

    def attention_in_integers(self) -> bool:
        return self.integer_attention

    def adapt(self, layer: nn.Linear | nn.Conv2d, context: TimestepContext, name: str) -> nn.Module:
        from intaglio.layers.frozen import QuantizedLayer
        from intaglio.layers.int8_lora.arithmetic import IntegerArithmetic
        from intaglio.layers.int8_lora.layer import Int8LoraLayer
        from intaglio.layers.low_rank import LowRankLayer
        from intaglio.layers.names import ends

        alpha = self.rank if self.alpha is None else self.alpha
        is_float = ends(name, self.float_layers)
        if isinstance(layer, QuantizedLayer) and is_float:
            layer.compute = "float"
        if is_float or not isinstance(layer, QuantizedLayer):
            return LowRankLayer(layer, self.rank, alpha)
        how = IntegerArithmetic(
            activation_bits=self.activation_bits,
            gradient_bits=self.gradient_bits,
            rounding=self.rounding,
            scale=self.scale,
            granularity=self.granularity,
            separate_gradient=self.separate_gradient,
            integer_adapter=self.integer_adapter,
        )
        return Int8LoraLayer(layer, self.rank, alpha, how, name)


QuantizedLora = Int8Lora
"""The name in version 0.1.0; it goes with the next release."""
