"""A low-rank adapter beside a quantized weight, with all eight products of a step in INT8 x INT8 -> INT32.

After CDM-QTA (Lu et al., ISCAS 2025). `quantizers/integer_step.py` defines every integer of a step; with power-of-two
scales this layer equals it bit for bit, and with float scales it computes the same with a finer grid.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from intaglio.errors import UserError
from intaglio.kernels.int8_matmul import MAX_REDUCTION
from intaglio.kernels.weight_product import integer_weight
from intaglio.layers import frozen
from intaglio.layers.codes_tensor import CodesTensor
from intaglio.layers.frozen import QuantizedLayer, compute_input
from intaglio.layers.geometry import Conv2dGeometry
from intaglio.layers.hooks import made_from
from intaglio.layers.int8_lora.arithmetic import IntegerArithmetic
from intaglio.layers.int8_lora.rounding import Rounded, check_finite, round_rows
from intaglio.layers.int8_lora.step import Step
from intaglio.layers.low_rank import LowRankLayer
from intaglio.layers.patches import from_channels_last_rows, output_shape
from intaglio.layers.remembered import Remembered, Tensors
from intaglio.quantizers.formats import Format
from intaglio.quantizers.packing import unpack_nibbles
from intaglio.quantizers.quantize import QuantizedWeight, from_rows, to_rows


class IntegerStep(torch.autograd.Function):
    """Output and gradients of one layer. Saves x as INT8 and h as INT32, (K + 4 r) bytes a token."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, lora_a: Tensor, lora_b: Tensor, rounded: Rounded | None, step: Step
    ) -> Tensor:
        y, rounded, h = step.output(x, rounded, _values(lora_a), _values(lora_b))
        ctx.step, ctx.input_shape = step, x.shape
        ctx.save_for_backward(*rounded, h, lora_a, lora_b)
        return from_channels_last_rows(y, output_shape(x.shape, step.geometry), step.geometry).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        qdata, scale, h, lora_a, lora_b = ctx.saved_tensors
        step, rounded = ctx.step, Rounded(qdata, scale)
        grad_x, da, db = step.gradients(
            grad, rounded, h, _values(lora_a), _values(lora_b), ctx.input_shape, ctx.needs_input_grad[0]
        )
        if grad_x is not None:
            grad_x = from_channels_last_rows(grad_x, ctx.input_shape, step.geometry).to(grad.dtype)
        return grad_x, from_rows(da, lora_a.shape).contiguous(), db.view(lora_b.shape), None, None


class Int8LoraLayer(LowRankLayer):
    """`LowRankLayer` over a quantized base, in integers. Parameters, file and merging are the same."""

    fixed_dtype = ("lora_a", "lora_b", "weight_scale")
    weight_scale: Tensor
    """float32 (N,): the base's scales."""

    def __init__(self, base: nn.Linear | nn.Conv2d, rank: int, alpha: float, how: IntegerArithmetic, name: str = ""):
        """`name` is what errors call the layer."""
        super().__init__(base, rank, alpha)
        assert isinstance(base, QuantizedLayer)
        _check_format(base.format)
        self.how, self.name = how, name or type(base).__name__
        _, reduction = to_rows(self.lora_a).shape
        longest = max(reduction, base.geometry.out_channels * reduction // base.geometry.in_channels)
        if longest > MAX_REDUCTION:
            raise UserError(
                f"{self.name} sums {longest:,} products, which INT32 may not hold (at most {MAX_REDUCTION:,}); "
                "leave it out of targets"
            )
        self.register_buffer("weight_scale", _weight_scale(base), persistent=False)
        self._remembered: Remembered[Step] = Remembered()
        if how.integer_adapter:
            self.lora_a = nn.Parameter(CodesTensor.of(self.lora_a.detach(), 0))
            self.lora_b = nn.Parameter(CodesTensor.of(self.lora_b.detach(), 1))

        self.register_load_state_dict_post_hook(_take_weight_scale)

    def forward(self, x: Tensor, rounded: Rounded | None = None) -> Tensor:
        """`rounded` is what `round` made of `x`, in this layer or another of the same `rounding`."""

        def train(x: Tensor) -> Tensor:
            return IntegerStep.apply(x, self.lora_a, self.lora_b, rounded, self._step())

        return frozen.within(self.base, compute_input(x), train)

    @property
    def rounding(self) -> Hashable:
        """Layers of equal `rounding` make the same integers of the same input; None: only this one makes them."""
        base, how = self.base, self.how
        assert isinstance(base, QuantizedLayer)
        if base.input_scale is not None:
            return None
        return how.activation_bits, how.scale, how.granularity, isinstance(base.geometry, Conv2dGeometry)

    @torch.no_grad()
    def round(self, x: Tensor) -> Rounded:
        """What the products of an input are made from.

        Raises:
            UserError: the input is not finite.
        """
        base = self.base
        assert isinstance(base, QuantizedLayer)
        rounded = round_rows(compute_input(x), base.geometry, self.how, bits=self.how.activation_bits)
        check_finite(rounded.scale, "input", self.name)
        return rounded

    def _step(self) -> Step:
        base = self.base
        assert isinstance(base, QuantizedLayer)
        tensors = *base.frozen_tensors(), self._buffers["weight_scale"]
        return made_from(base, self._remembered, tensors, (self.alpha, self.rank, self.how), self._make)

    def _make(self, tensors: Tensors) -> Step:
        base = self.base
        assert isinstance(base, QuantizedLayer)
        qdata, scale, zero_point, input_scale, bias, weight_scale = tensors
        assert qdata is not None
        assert scale is not None
        assert weight_scale is not None
        weight = integer_weight(QuantizedWeight(qdata, scale, zero_point, base.format, base.weight_shape))
        how = {"how": self.how, "rank": self.rank, "scaling": self.scaling, "name": self.name}
        return Step(weight, bias, input_scale, weight_scale, base.geometry, **how)


def _take_weight_scale(layer: nn.Module, incompatible_keys: Any) -> None:
    """After other values were loaded into the base."""
    assert isinstance(layer, Int8LoraLayer)
    assert isinstance(layer.base, QuantizedLayer)
    layer.weight_scale.copy_(_weight_scale(layer.base))


def _check_format(format: Format) -> None:
    """Refuse integers that do not stand for the weight up to one factor per output channel: the method's `check_base`
    has said so to the user."""
    if format.group_size is not None or not format.symmetric or format.levels is not None:
        raise ValueError(f"{format.name} has no single scale per output channel, or a zero point")


def weight_codes(base: QuantizedLayer) -> Tensor:
    """int8 (N, K); unpacked for the moment where two values lie in a byte."""
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


def _values(parameter: Tensor) -> Tensor:
    return parameter.values() if isinstance(parameter, CodesTensor) else parameter.detach()
