"""Fully quantized LoRA training, after CDM-QTA (Lu et al., ISCAS 2025): weights, activations and gradients are integers
in all eight products of a trained layer. docs/int8_lora.md has the equations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from intaglio.errors import UserError
from intaglio.layers.frozen import QuantizedLayer
from intaglio.layers.int8_lora.arithmetic import IntegerArithmetic
from intaglio.layers.int8_lora.layer import Int8LoraLayer, check_format
from intaglio.layers.integer import GEMMS, check_gemms
from intaglio.layers.low_rank import LowRankLayer, check_pair
from intaglio.layers.timesteps import TimestepContext
from intaglio.methods.base import ATTENTION_TARGETS, Method
from intaglio.quantizers.formats import parse_format


@dataclass(frozen=True, kw_only=True)
class Int8Lora(Method):
    """
    A trained layer whose base is float (named by `attach`'s `keep_float`) computes in float. Norms, the loss, the
    optimizer and, without `integer_attention`, attention's own two products are float too.

    Args:
        rank: columns of the pair, at least 1.
        alpha: the update is scaled by alpha / rank; None means alpha = rank.
        base: format of the frozen weights, one of int4 .. int8 with a scale per output channel; None takes the
            model's own, or int4 where the model is float.
        activation_bits: of what enters a product in the forward pass, 2 .. 8.
        gradient_bits: of what enters a product in the backward pass, 2 .. 8.
        rounding: "nearest" or "stochastic", of what is summed over tokens in the adapter's gradients.
        scale: "float", or "power_of_two": every requantization is a shift, and the NumPy definition of the step
            (`quantizers/integer_step.py`) is equalled bit for bit.
        granularity: what shares a scale: a "token" (in a convolution a sample), or the whole "tensor".
        separate_gradient: quantize the gradient a second time for the adapter's own gradients: slower, more exact.
        integer_adapter: hold the pairs as INT8 codes, and train them with 8-bit moments and stochastic rounding
            (`training/integer_adam.py`); the file is the same.
        float_layers: ends of names of trained layers that compute in float; `intaglio diagnose` proposes them.
        integer_gemms: which products of the layers that are not trained run in integers, "output" and "grad_input".
        integer_attention: attention's own two products of the forward pass in INT8 too (docs/attention.md); their
            gradients stay float. Compiled for bfloat16; elsewhere the definition computes, slowly.
    """

    rank: int = 16
    alpha: float | None = None
    base: str | None = None
    activation_bits: int = 8
    gradient_bits: int = 8
    rounding: Literal["nearest", "stochastic"] = "nearest"
    scale: Literal["float", "power_of_two"] = "float"
    granularity: Literal["token", "tensor"] = "token"
    separate_gradient: bool = False
    integer_adapter: bool = False
    float_layers: tuple[str, ...] = ()
    integer_gemms: tuple[str, ...] = GEMMS
    integer_attention: bool = False

    name = "int8_lora"
    summary = "a low-rank pair beside each quantized weight, every product of it in integers"
    needs_base = True
    default_targets = ATTENTION_TARGETS
    learning_rate = 1e-3

    def __post_init__(self) -> None:
        check_pair(self.rank, self.alpha)
        object.__setattr__(self, "float_layers", tuple(self.float_layers))  # a list, from a file
        object.__setattr__(self, "integer_gemms", check_gemms(self.integer_gemms))
        for field in ("activation_bits", "gradient_bits"):
            if getattr(self, field) not in range(2, 9):
                raise UserError(f"{field} must be 2 to 8, not {getattr(self, field)}")
        choices = {
            "rounding": ("nearest", "stochastic"),
            "scale": ("float", "power_of_two"),
            "granularity": ("token", "tensor"),
        }
        for field, known in choices.items():
            if getattr(self, field) not in known:
                raise UserError(f"{field} must be {' or '.join(map(repr, known))}, not {getattr(self, field)!r}")
        if self.base is not None:
            check_format(parse_format(self.base))

    def frozen_integer_gemms(self) -> tuple[str, ...]:
        return self.integer_gemms

    def attention_in_integers(self) -> bool:
        return self.integer_attention

    def adapt(self, layer: nn.Linear | nn.Conv2d, context: TimestepContext, name: str) -> nn.Module:
        alpha = self.rank if self.alpha is None else self.alpha
        is_float = any(name == end or name.endswith("." + end) for end in self.float_layers)
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
