"""A frozen weight whose inputs are rotated before it multiplies them: the integers stay those of the file."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.layers.int8_weight import Int8Weight
from intaglio.layers.weight import Factor, Saved, SavedFloat, Scaled
from intaglio.quantizers.rotation import rotate


class RotatedWeight:
    """`W = Q H` with H of `quantizers/rotation.py`; `inner` multiplies by Q. H is its own transpose.

    `input_scale` is of the channels before they are rotated: `y = Q H (input_scale * x)`.
    """

    def __init__(self, inner: Int8Weight, size: int, input_scale: Tensor | None):
        assert inner.input_scale is None
        self.inner, self.size, self.input_scale = inner, size, input_scale
        self.geometry, self.bias = inner.geometry, inner.bias

    def output(self, x: Tensor) -> Tensor:
        return self.inner.output(rotate(self._scale(x), self.size))

    def grad_input(self, grad: Tensor, input_shape: torch.Size) -> Tensor:
        return self._scale(rotate(self.inner.grad_input(grad, input_shape), self.size))

    def scaled_output(self, x: Tensor, r_out: Factor, r_in: Factor | None, *, save_x: bool, save_y: bool) -> Scaled:
        scaled = x if r_in is None else x * self.geometry.along_channels(r_in.chosen().to(x.dtype), x)
        inner = self.inner.scaled_output(
            rotate(self._scale(scaled), self.size), r_out, None, save_x=False, save_y=save_y
        )
        return Scaled(inner.y, SavedFloat(x) if save_x else None, inner.saved_y)

    def scaled_grad_input(
        self, grad: Tensor, input_shape: torch.Size, r_out: Factor, r_in: Factor | None, saved_x: Saved | None
    ) -> tuple[Tensor, Tensor | None]:
        inner, _ = self.inner.scaled_grad_input(grad, input_shape, r_out, None, None)
        grad_xs = self._scale(rotate(inner, self.size))
        if r_in is None:
            return grad_xs, None
        grad_in = None if saved_x is None else r_in.sum(saved_x.sum_with(grad_xs, self.geometry))
        return grad_xs * self.geometry.along_channels(r_in.chosen().to(grad_xs.dtype), grad_xs), grad_in

    def grad_r_out(self, grad: Tensor, r_out: Factor, saved_y: Saved) -> Tensor:
        return self.inner.grad_r_out(grad, r_out, saved_y)

    def _scale(self, x: Tensor) -> Tensor:
        return x if self.input_scale is None else x * self.input_scale.to(x.dtype)

    def restore(self, tensors: tuple[Tensor, ...]) -> Saved | None:
        """One tensor is an input in float, more are INT8 values with their scales."""
        return SavedFloat(*tensors) if len(tensors) == 1 else self.inner.restore(tensors)
