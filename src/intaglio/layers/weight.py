"""A frozen weight as an object that multiplies: what a layer trains beside it need not know how it lies.

Three kinds: `FloatWeight`, `PackedWeight`, which is dequantized for each product and freed again, and `Int8Weight`
(`int8_weight.py`), which is multiplied as the integers that it is. Each says what it saves for the backward pass:
the float values themselves, or their INT8 values and scales. None of them has a gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from intaglio.layers.geometry import Geometry
from intaglio.quantizers.quantize import QuantizedWeight, dequantize


class Factor(NamedTuple):
    """Factors that channels are multiplied with: one set for all samples, or a set for each."""

    sets: Tensor
    """float32 (E, C), a row for each scale set in use."""
    rows: Tensor | None
    """int64 (B,), the set of each sample; None when E = 1."""

    @property
    def shared(self) -> bool:
        return self.rows is None

    def chosen(self) -> Tensor:
        """The factors of each sample (B, C), or of all of them (C,)."""
        return self.sets[0] if self.rows is None else self.sets[self.rows]

    def sum(self, per_sample: Tensor) -> Tensor:
        """Sums of each sample (B, C) -> of each scale set, (E, C) in the dtype of the factors."""
        if self.rows is None:
            return per_sample.sum(0, keepdim=True).to(self.sets.dtype)
        sums = torch.zeros(self.sets.shape, dtype=per_sample.dtype, device=self.sets.device)
        return sums.index_add_(0, self.rows, per_sample).to(self.sets.dtype)


class Saved(Protocol):
    """An activation, saved for backward. A tuple of its tensors."""

    def sum_with(self, grad: Tensor, geometry: Geometry) -> Tensor:
        """Sum over tokens of `grad` times the activation, at least float32 (B, C)."""
        ...

    def __iter__(self) -> Any: ...

    def __len__(self) -> int: ...


class Scaled(NamedTuple):
    """The output of a product with factors, and what its gradients need."""

    y: Tensor
    saved_x: Saved | None
    saved_y: Saved | None


class FrozenWeight(Protocol):
    geometry: Geometry
    bias: Tensor | None

    def output(self, x: Tensor) -> Tensor:
        """`(x * input_scale) W^T + bias`, in the dtype of `x`."""
        ...

    def grad_input(self, grad: Tensor, input_shape: torch.Size) -> Tensor:
        """The gradient of `output` with respect to `x`, in the dtype of `grad`."""
        ...

    def scaled_output(self, x: Tensor, r_out: Factor, r_in: Factor | None, *, save_x: bool, save_y: bool) -> Scaled:
        """`r_out * (W (r_in * x)) + bias`; what is saved are `x` and the product without its bias."""
        ...

    def scaled_grad_input(
        self, grad: Tensor, input_shape: torch.Size, r_out: Factor, r_in: Factor | None, saved_x: Saved | None
    ) -> tuple[Tensor, Tensor | None]:
        """The gradients of `x` and, where `saved_x` is given, of the sets of `r_in`."""
        ...

    def grad_r_out(self, grad: Tensor, r_out: Factor, saved_y: Saved) -> Tensor:
        """The gradient of the sets of `r_out`."""
        ...

    def restore(self, tensors: tuple[Tensor, ...]) -> Saved | None:
        """What was saved, from its tensors; None from none."""
        ...


class SavedFloat(NamedTuple):
    value: Tensor

    def sum_with(self, grad: Tensor, geometry: Geometry) -> Tensor:
        return geometry.per_sample_sum(grad * self.value)


class FloatWeight:
    """A weight of floats, in whatever dtype; computed in that of the input."""

    def __init__(self, weight: Tensor, bias: Tensor | None, geometry: Geometry):
        self.weight, self.bias, self.geometry = weight.detach(), bias, geometry
        self.input_scale: Tensor | None = None

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """(O, I / groups, ...) without `input_scale`."""
        return self.weight.to(dtype)

    def output(self, x: Tensor) -> Tensor:
        if self.input_scale is not None:
            x = x * self._along(self.input_scale, x)
        bias = None if self.bias is None else self.bias.detach().to(x.dtype)
        return self.geometry.output(x, self.matrix(x.dtype), bias)

    def grad_input(self, grad: Tensor, input_shape: torch.Size) -> Tensor:
        grad_x = self.geometry.grad_input(grad, self.matrix(grad.dtype), input_shape)
        return grad_x if self.input_scale is None else grad_x * self._along(self.input_scale, grad_x)

    def scaled_output(self, x: Tensor, r_out: Factor, r_in: Factor | None, *, save_x: bool, save_y: bool) -> Scaled:
        """The bias goes into the product, although it is not scaled, so that factors of 1 change no bit."""
        y0 = self.output(x if r_in is None else x * self._along(r_in.chosen(), x))
        y = y0 * self._along(r_out.chosen(), y0)
        if self.bias is not None:
            y = y + self._along(Factor(self.bias * (1 - r_out.sets), r_out.rows).chosen(), y)
        return Scaled(y, SavedFloat(x) if save_x else None, SavedFloat(y0) if save_y else None)

    def scaled_grad_input(
        self, grad: Tensor, input_shape: torch.Size, r_out: Factor, r_in: Factor | None, saved_x: Saved | None
    ) -> tuple[Tensor, Tensor | None]:
        grad_xs = self.grad_input(grad * self._along(r_out.chosen(), grad), input_shape)
        if r_in is None:
            return grad_xs, None
        grad_in = None if saved_x is None else r_in.sum(saved_x.sum_with(grad_xs, self.geometry))
        return grad_xs * self._along(r_in.chosen(), grad_xs), grad_in

    def grad_r_out(self, grad: Tensor, r_out: Factor, saved_y: Saved) -> Tensor:
        sums = r_out.sum(saved_y.sum_with(grad, self.geometry))
        if self.bias is not None:
            sums -= self.bias * r_out.sum(self.geometry.per_sample_sum(grad))
        return sums

    def restore(self, tensors: tuple[Tensor, ...]) -> SavedFloat | None:
        return SavedFloat(*tensors) if tensors else None

    def _along(self, factor: Tensor, x: Tensor) -> Tensor:
        """(C,) or (B, C) to multiply the channels of `x`, in its dtype."""
        return self.geometry.along_channels(factor.to(x.dtype), x)


class PackedWeight(FloatWeight):
    """Quantized values, dequantized for each product and freed again: neither direction leaves a float copy."""

    def __init__(self, quantized: QuantizedWeight, bias: Tensor | None, input_scale: Tensor | None, geometry: Geometry):
        self.quantized, self.bias, self.input_scale, self.geometry = quantized, bias, input_scale, geometry

    def matrix(self, dtype: torch.dtype) -> Tensor:
        return dequantize(self.quantized, dtype)


class FrozenProduct(torch.autograd.Function):
    """`output` and `grad_input` under autograd. Nothing is saved but the shape of the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: FrozenWeight) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.weight, ctx.input_shape = weight, x.shape
        return weight.output(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.weight.grad_input(grad, ctx.input_shape) if ctx.needs_input_grad[0] else None, None
