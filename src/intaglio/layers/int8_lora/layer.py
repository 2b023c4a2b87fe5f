"""A low-rank pair beside a quantized weight, with all eight products of a step in INT8 x INT8 -> INT32.

After CDM-QTA (Lu et al., ISCAS 2025). `quantizers/integer_step.py` defines every integer of a step; with power-of-two
scales this layer equals it bit for bit, and with float scales it computes the same with a finer grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from intaglio.errors import UserError
from intaglio.kernels.int8_matmul import MAX_REDUCTION
from intaglio.layers.codes_tensor import CodesTensor
from intaglio.layers.frozen import QuantizedLayer, compute_input
from intaglio.layers.geometry import Conv2dGeometry
from intaglio.layers.int8_lora.step import IntegerStep, RoundedInput
from intaglio.layers.last_input import last_input
from intaglio.layers.low_rank import LowRankLayer
from intaglio.quantizers.formats import Format
from intaglio.quantizers.packing import unpack_nibbles
from intaglio.quantizers.quantize import to_rows


@dataclass(frozen=True, kw_only=True)
class IntegerArithmetic:
    """How the tensors of a step become integers."""

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
    """Hold the pair as INT8 codes (`CodesTensor`)."""
    separate_gradient: bool = False
    """Quantize g a second time, without the weight's scales, for the adapter's two gradients; `b` is then in its own
    units. Costs a pass over g and a product of its own for `gh`, see docs/int8_lora.md."""

    @property
    def power_of_two(self) -> bool:
        return self.scale == "power_of_two"


class Int8LoraLayer(LowRankLayer):
    """`LowRankLayer` over a quantized base, in integers. Parameters, file and merging are the same."""

    fixed_dtype = ("lora_a", "lora_b", "weight_scale")
    weight_scale: Tensor
    """float32 (N,): the base's scales."""

    def __init__(self, base: nn.Linear | nn.Conv2d, rank: int, alpha: float, how: IntegerArithmetic, name: str = ""):
        """`name` is what errors call the layer."""
        super().__init__(base, rank, alpha)
        assert isinstance(base, QuantizedLayer)
        check_format(base.format)
        self.how, self.name = how, name or type(base).__name__
        _, reduction = to_rows(self.lora_a).shape
        longest = max(reduction, base.geometry.out_channels * reduction // base.geometry.in_channels)
        if longest > MAX_REDUCTION:
            raise UserError(
                f"{self.name} sums {longest:,} products, which INT32 may not hold (at most {MAX_REDUCTION:,}); "
                "leave it out of targets"
            )
        self.register_buffer("weight_scale", _weight_scale(base), persistent=False)
        self.calls: dict[Any, Any] = {}
        """Compiled calls by shape: `integer_lora_calls.py`."""
        if how.integer_adapter:
            self.lora_a = nn.Parameter(CodesTensor.of(self.lora_a.detach(), 0))
            self.lora_b = nn.Parameter(CodesTensor.of(self.lora_b.detach(), 1))

        self.register_load_state_dict_post_hook(_take_weight_scale)

    def __getstate__(self) -> dict[str, Any]:
        """Without the calls: they hold addresses, and a copy makes its own."""
        return {**self.__dict__, "calls": {}}

    def forward(self, x: Tensor) -> Tensor:
        inside, how = compute_input(x), self.how
        assert isinstance(self.base, QuantizedLayer)
        key = (how.activation_bits, how.scale, how.granularity, isinstance(self.base.geometry, Conv2dGeometry))
        shared = self.base.input_scale is None and not x.is_inference()
        found = last_input.codes(x, (*key, inside.dtype)) if shared else None
        rounded = RoundedInput() if found is None else RoundedInput(*found)
        y = IntegerStep.apply(inside, rounded, self.lora_a, self.lora_b, self)
        if shared and found is None and rounded.codes is not None and rounded.scale is not None:
            last_input.keep(x, (*key, inside.dtype), rounded.codes, rounded.scale)
        return y


def _take_weight_scale(layer: nn.Module, incompatible_keys: Any) -> None:
    """After other values were loaded into the base."""
    assert isinstance(layer, Int8LoraLayer)
    assert isinstance(layer.base, QuantizedLayer)
    layer.weight_scale.copy_(_weight_scale(layer.base))


def check_format(format: Format) -> None:
    """Refuse a base whose integers do not stand for the weight up to one factor per output channel."""
    if format.group_size is not None or not format.symmetric or format.levels is not None:
        raise UserError(
            f"int8_lora cannot train over {format.name}: its products need one scale per output channel and no zero "
            "point. Use base int8, int7, int6, int5 or int4, or method qlora, which takes every format"
        )


def weight_codes(base: QuantizedLayer) -> Tensor:
    """int8 (N, K); unpacked for the moment where two codes lie in a byte."""
    if base.format.bits != 4:
        return base.qdata
    taps = base.weight_shape[2:]
    columns = base.weight_shape[1] * (taps[0] * taps[1] if taps else 1)
    return unpack_nibbles(base.qdata, columns, signed=True)


def _weight_scale(base: QuantizedLayer) -> Tensor:
    """float32 (N,). A channel of zeros has no scale of its own: it takes the median of the others, as a scale far from
    theirs would spoil what is quantized together with it."""
    scale = base.scale[:, 0].float().clone()
    if scale.is_meta:
        return scale
    used = weight_codes(base).any(1)
    return torch.where(used, scale, scale[used].median()) if used.any() else scale
