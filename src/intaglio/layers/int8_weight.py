"""A frozen quantized weight whose products are INT8 x INT8 -> INT32.

A scale on the axis that is summed over goes into the other operand before that is rounded, so that one packed weight
with a scale per output channel serves both directions (tokens in rows, `W` the weight's INT8 values):

    output       q(x * factor) W^T * (row scale * weight scale) + bias      one row scale a token
    grad_input   q(dy * factor * weight scale) W * row scale                of a convolution: a sample

Saved for backward are the INT8 values of the input and, where a gradient needs it, of the output, never a float copy of
either. A convolution's result is channels-last.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from intaglio.kernels.column_sums import column_sums
from intaglio.kernels.float_pair import pair_sums
from intaglio.kernels.row_quantizer import quantize_rows
from intaglio.kernels.weight_product import IntegerWeight, LayerCall, LayerResult, Pair
from intaglio.layers.geometry import Conv2dGeometry, Geometry
from intaglio.layers.patches import from_pixels, grad_size, pixels_shape, stored_dtype, to_pixels, window
from intaglio.layers.remembered import ByShape
from intaglio.layers.weight import Factor, Saved, Scaled


def multiplies(geometry: Geometry, dtype: torch.dtype) -> bool:
    """Whether the products are made in integers: not for groups of channels, nor for float64, which asks for
    exactness."""
    grouped = isinstance(geometry, Conv2dGeometry) and geometry.groups != 1
    return not grouped and dtype != torch.float64


class SavedInt8(NamedTuple):
    """`value ~ qdata * scale`, a scale for each of equal runs of pixels."""

    qdata: Tensor
    """int8 (B, H, W, C); a Linear's are (1, 1, tokens, C)."""
    scale: Tensor
    """float32 (G,): tokens of a Linear, samples or pixels of a Conv2d."""

    def sum_with(self, grad: Tensor, geometry: Geometry) -> Tensor:
        samples, rows = len(grad), to_pixels(grad, geometry)
        channels = rows.shape[-1]
        return column_sums(rows.reshape(samples, -1, channels), self.qdata.view(samples, -1, channels), self.scale)

    def product_with(self, grad_h: Tensor) -> Tensor:
        """(tokens, R) -> float32 (R, C): the sum over tokens of each with the activation's values."""
        return pair_sums(self.qdata.view(len(grad_h), -1), (grad_h * self.scale[:, None]).to(grad_h.dtype))


class Int8Weight:
    """Made once for the tensors of a layer, with the calls that serve the shapes of its inputs."""

    def __init__(self, integers: IntegerWeight, bias: Tensor | None, input_scale: Tensor | None, geometry: Geometry):
        self.integers, self.bias, self.input_scale, self.geometry = integers, bias, input_scale, geometry
        self._calls: ByShape[LayerCall] = ByShape()

    def output(self, x: Tensor) -> Tensor:
        return self._output(x, self.input_scale, self._call(x, None, with_bias=True))[0]

    def grad_input(self, grad: Tensor, input_shape: torch.Size) -> Tensor:
        return self._grad_input(grad, input_shape, None)[0]

    def output_with_pair(self, x: Tensor, pair: Pair) -> tuple[Tensor, SavedInt8, Tensor]:
        """A Linear's output with a low-rank pair's share added, the input, and what it became in the rank of the pair.

        Returns:
            (B, ..., O) in the dtype of `x`; `x * input_scale` saved; (tokens, R).
        """
        y, made = self._output(x, self.input_scale, self._call(x, None, with_bias=True), pair)
        assert made.h is not None
        return y, SavedInt8(made.codes, made.scale), made.h

    def grad_input_with_pair(self, grad: Tensor, input_shape: torch.Size, pair: Pair) -> tuple[Tensor, Tensor]:
        """The gradient of the input, the pair's share added, and what `grad` became in the rank of the pair."""
        grad_x, h = self._grad_input(grad, input_shape, None, pair)
        assert h is not None
        return grad_x, h

    def grad_pair_down(self, grad_h: Tensor, saved_x: SavedInt8) -> Tensor:
        """float32 (R, I): the gradient of the first matrix of a pair, which saw `x` without `input_scale`."""
        sums = saved_x.product_with(grad_h)
        return sums if self.input_scale is None else _divided(sums, self.input_scale)

    def scaled_output(self, x: Tensor, r_out: Factor, r_in: Factor | None, *, save_x: bool, save_y: bool) -> Scaled:
        """Factors that all samples share are scales of the product, at no cost."""
        call, shared = self._call(x, None, with_bias=False), r_out.chosen() if r_out.shared else None
        y, made = self._output(x, self._input_factor(r_in), call, out_factor=shared)
        if shared is None:
            y = y.mul_(self.geometry.along_channels(r_out.chosen().to(y.dtype), y))
        saved_y = _round_by_pixel(y, self.geometry) if save_y else None
        if self.bias is not None:
            y = y.add_(self.geometry.along_channels(self.bias.to(y.dtype), y))
        return Scaled(y, SavedInt8(made.codes, made.scale) if save_x else None, saved_y)

    def scaled_grad_input(
        self, grad: Tensor, input_shape: torch.Size, r_out: Factor, r_in: Factor | None, saved_x: Saved | None
    ) -> tuple[Tensor, Tensor | None]:
        """`x` is taken back from its INT8 values by division, so a factor of exactly 0 gets no gradient."""
        shared = r_in.chosen() if r_in is not None and r_in.shared else None
        grad_x, _ = self._grad_input(grad, input_shape, r_out.chosen(), out_factor=shared)
        if r_in is None:
            return grad_x, None
        if shared is None:
            grad_x = grad_x.mul_(self.geometry.along_channels(r_in.chosen().to(grad_x.dtype), grad_x))
        factor = self._input_factor(r_in)
        if saved_x is None or factor is None:
            return grad_x, None
        return grad_x, r_in.sum(_divided(saved_x.sum_with(grad_x, self.geometry), r_in.chosen() * factor))

    def grad_r_out(self, grad: Tensor, r_out: Factor, saved_y: Saved) -> Tensor:
        return r_out.sum(_divided(saved_y.sum_with(grad, self.geometry), r_out.chosen()))

    def restore(self, tensors: tuple[Tensor, ...]) -> SavedInt8 | None:
        return SavedInt8(*tensors) if tensors else None

    def _input_factor(self, r_in: Factor | None) -> Tensor | None:
        """What `x` is multiplied with before it is rounded: `r_in` and the weight's own."""
        if r_in is None:
            return self.input_scale
        return r_in.chosen() if self.input_scale is None else r_in.chosen() * self.input_scale

    def _output(
        self,
        x: Tensor,
        factor: Tensor | None,
        call: LayerCall,
        pair: Pair | None = None,
        out_factor: Tensor | None = None,
    ) -> tuple[Tensor, LayerResult]:
        made = call(to_pixels(_stored(x), self.geometry), _by_sample(factor), pair, out_factor)
        return from_pixels(made.out, x.shape, self.geometry.out_channels, self.geometry).to(x.dtype), made

    def _grad_input(
        self,
        grad: Tensor,
        input_shape: torch.Size,
        factor: Tensor | None,
        pair: Pair | None = None,
        out_factor: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        scale = self.integers.scale
        call = self._call(grad, input_shape, with_bias=False)
        factor = scale if factor is None else factor * scale
        made = call(to_pixels(_stored(grad), self.geometry), _by_sample(factor), pair, out_factor)
        return from_pixels(made.out, input_shape, self.geometry.in_channels, self.geometry).to(grad.dtype), made.h

    def _call(self, x: Tensor, input_shape: torch.Size | None, *, with_bias: bool) -> LayerCall:
        """The product for inputs like `x`; for gradients like `x` where the shape of the input is given."""
        key = (x.shape, x.dtype, input_shape, with_bias)
        return self._calls.get(key) or self._calls.keep(key, self._new_call(x, input_shape, with_bias))

    def _new_call(self, x: Tensor, input_shape: torch.Size | None, with_bias: bool) -> LayerCall:
        geometry, bias = self.geometry, self.bias if with_bias else None
        check_device(x.device, self.integers.qdata, self.integers.scale, bias, self.input_scale)
        shape = pixels_shape(x.shape, geometry)
        column_scale, size = self.integers.scale, None
        if input_shape is not None:
            size, column_scale = grad_size(input_shape, geometry), self.input_scale
            if column_scale is None:
                column_scale = x.new_ones(geometry.in_channels, dtype=torch.float32)
        return LayerCall(
            self.integers,
            window(geometry),
            shape,
            stored_dtype(x.dtype),
            groups=shape[0] if isinstance(geometry, Conv2dGeometry) else shape[2],
            column_scale=column_scale,
            bias=bias,
            grad_input_size=size,
        )


def check_device(device: torch.device, *weights: Tensor | None) -> None:
    """Refuse weights that lie elsewhere than the input: the address of a meta tensor is 0, which stands for "none".

    Raises:
        ValueError: one does.
    """
    for weight in weights:
        if weight is not None and weight.device != device:
            raise ValueError(
                f"the input is on {device}, a tensor of the frozen weight on {weight.device}: was the layer "
                "offloaded, and not called through its hooks?"
            )


def _round_by_pixel(y: Tensor, geometry: Geometry) -> SavedInt8:
    """A scale for each pixel of a Conv2d too: no kernel's taps mix what is saved for an output's factor."""
    rows = to_pixels(y, geometry)
    qdata, scale = quantize_rows(rows.reshape(-1, 1, rows.shape[-1]), None)
    return SavedInt8(qdata.view(rows.shape), scale)


def _divided(sums: Tensor, factor: Tensor) -> Tensor:
    """`sums / factor`; 0 where the factor is 0, from which nothing can be taken back."""
    return torch.where(factor == 0, 0.0, sums / factor)


def _by_sample(factor: Tensor | None) -> Tensor | None:
    """(C,) or (B, C) -> (1, C) or (B, C), float32."""
    if factor is None:
        return None
    return (factor if factor.ndim == 2 else factor[None]).float()


def _stored(x: Tensor) -> Tensor:
    """In a dtype that the kernels take."""
    return x.to(stored_dtype(x.dtype))
