"""The step of a layer of `int8_lora`: eight products in integers, as a function of its tensors.

Where the arithmetic is the default one, each direction is one compiled call (`kernels/integer_lora`); everywhere else,
and wherever something watches the operators, it is these operators one after the other, with the same result. Names are
those of `quantizers/integer_step.py`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from intaglio.kernels.codes import pair_codes
from intaglio.kernels.integer_lora import IntegerLoraCall
from intaglio.kernels.low_rank import low_rank_update, rank_product, token_gradient
from intaglio.kernels.operators import watched
from intaglio.kernels.weight_product import IntegerWeight, LayerCall, weight_product
from intaglio.layers.geometry import Conv2dGeometry, Geometry
from intaglio.layers.int8_lora.arithmetic import IntegerArithmetic
from intaglio.layers.int8_lora.rounding import Rounded, check_finite, refuse, round_rows, row_groups
from intaglio.layers.int8_weight import check_device
from intaglio.layers.patches import (
    channels_last_rows,
    grad_size,
    is_pointwise,
    output_shape,
    pixels,
    pixels_shape,
    stored_dtype,
    to_pixels,
    unfold,
    window,
)
from intaglio.layers.remembered import ByShape
from intaglio.quantizers.activations import quantize_groups, seed_of
from intaglio.quantizers.quantize import to_rows

ADAPTER_BITS = 8


class Adapter(NamedTuple):
    """The two matrices as integers, a scale a rank."""

    a: Tensor
    """int8 (r, K), of alpha / rank A."""
    a_scale: Tensor
    b: Tensor
    """int8 (N, r), of B over the weight's scales, or of B."""
    b_scale: Tensor


class Gradients(NamedTuple):
    x: Tensor | None
    """(B, H, W, I), where it is needed."""
    a: Tensor
    """float32 (r, K)."""
    b: Tensor
    """float32 (O, r)."""


@dataclass(eq=False)
class Step:
    """Made once for the tensors of a layer, with the calls that serve the shapes of its inputs."""

    weight: IntegerWeight
    bias: Tensor | None
    input_scale: Tensor | None
    weight_scale: Tensor
    """float32 (O,)."""
    geometry: Geometry
    how: IntegerArithmetic
    rank: int
    scaling: float
    name: str
    """What errors call the layer."""
    _products: ByShape[LayerCall] = field(default_factory=ByShape, init=False, repr=False)
    _wholes: ByShape[IntegerLoraCall] = field(default_factory=ByShape, init=False, repr=False)

    def output(
        self, x: Tensor, rounded: Rounded | None, lora_a: Tensor, lora_b: Tensor
    ) -> tuple[Tensor, Rounded, Tensor]:
        """
        Args:
            x: (B, ..., I) or (B, I, H, W).
            rounded: what `x` was rounded to, if it was already.
            lora_a, lora_b: float32, the adapter's values.

        Returns:
            The output (B, H, W, O), what `x` was rounded to, and h = x a^T, int32 (M, r).
        """
        whole = self.whole_step(x, x.shape)
        if whole is None:
            return self._output(x, rounded, lora_a, lora_b)
        a, b = lora_a.view(self.rank, -1), lora_b
        qdata, scale, h, y, finite = whole.forward(to_pixels(x, self.geometry), rounded, a, b)
        if not finite:
            refuse("input", self.name)
        return y, Rounded(qdata, scale), h

    def gradients(
        self,
        grad: Tensor,
        rounded: Rounded,
        h: Tensor,
        lora_a: Tensor,
        lora_b: Tensor,
        input_shape: torch.Size,
        need_x: bool,
    ) -> Gradients:
        """From the gradient of the output, in its own shape, and what `output` gave and got."""
        whole = self.whole_step(grad, input_shape)
        if whole is None:
            return self._gradients(grad, rounded, h, lora_a, lora_b, input_shape, need_x)
        a, b = lora_a.view(self.rank, -1), lora_b
        x, da, db, finite = whole.backward(to_pixels(grad, self.geometry), *rounded, h, a, b, need_x=need_x)
        if not finite:
            refuse("gradient", self.name)
        return Gradients(x, da, db)

    def whole_step(self, x: Tensor, input_shape: torch.Size) -> IntegerLoraCall | None:
        """One call a direction, for an input or gradient `x`; None where operators make the step."""
        shape = self.geometry
        if not self.how.plain or (isinstance(shape, Conv2dGeometry) and not is_pointwise(shape)):
            return None
        if x.is_meta or x.dtype not in (torch.float32, torch.bfloat16) or not input_shape.numel() or watched():
            return None
        key = input_shape, x.dtype
        call = self._wholes.get(key) or self._wholes.keep(key, IntegerLoraCall(
            self.product(x.device, input_shape, x.dtype, None),
            self.product(x.device, output_shape(input_shape, shape), x.dtype, input_shape),
            rank=self.rank, scaling=self.scaling, weight_scale=self.weight_scale, input_scale=self.input_scale,
            power_of_two=self.how.integer_adapter,  # the scales that an INT8 adapter has already
        ))  # fmt: skip
        return call if call.fits(x) else None

    def product(
        self, device: torch.device, shape: torch.Size, dtype: torch.dtype, input_shape: torch.Size | None
    ) -> LayerCall:
        """The base's product for inputs of `shape`, stored as `dtype`; for gradients with the shape of the input."""
        key = shape, dtype, input_shape
        return self._products.get(key) or self._products.keep(key, self._new_product(device, *key))

    def _new_product(
        self, device: torch.device, shape: torch.Size, dtype: torch.dtype, input_shape: torch.Size | None
    ) -> LayerCall:
        geometry, bias = self.geometry, self.bias if input_shape is None else None
        check_device(device, self.weight.qdata, self.weight.scale, bias, self.input_scale, self.weight_scale)
        size = None if input_shape is None else grad_size(input_shape, geometry)
        return LayerCall(
            self.weight, window(geometry), pixels_shape(shape, geometry), dtype,
            groups=row_groups(shape, geometry, self.how), bias=bias, grad_input_size=size,
            column_scale=self.weight_scale if size is None else self._in_scale(),
        )  # fmt: skip

    def _in_scale(self) -> Tensor:
        """float32 (I,): the base's, or ones."""
        if self.input_scale is None:
            return self.weight_scale.new_ones(self.geometry.in_channels)
        return self.input_scale

    def _output(
        self, x: Tensor, rounded: Rounded | None, lora_a: Tensor, lora_b: Tensor
    ) -> tuple[Tensor, Rounded, Tensor]:
        shape, how, y = self.geometry, self.how, None
        if rounded is None:
            rounded, y = self._round_and_multiply(x, self.input_scale, how.activation_bits, None)
            check_finite(rounded.scale, "input", self.name)
        adapter = self._adapter(lora_a, lora_b)
        with _no_autocast(x):
            if y is None:
                product = self.product(x.device, x.shape, stored_dtype(x.dtype), None)
                y = product.of_codes(pixels(rounded.qdata, x.shape, shape), rounded.scale)
            h = low_rank_update(
                y.view(-1, shape.out_channels),
                unfold(rounded.qdata, x.shape, shape),
                adapter.a,
                adapter.b,
                row_scale=rounded.scale,
                first_scale=adapter.a_scale,
                second_scale=adapter.b_scale,
                column_scale=None if how.separate_gradient else self.weight_scale,
                bits=how.activation_bits,
                power_of_two=how.power_of_two,
            )
        return y, rounded, h

    def _gradients(
        self,
        grad: Tensor,
        x: Rounded,
        h: Tensor,
        lora_a: Tensor,
        lora_b: Tensor,
        input_shape: torch.Size,
        need_x: bool,
    ) -> Gradients:
        how, shape, bits = self.how, self.geometry, self.how.gradient_bits
        seed = seed_of(channels_last_rows(grad, shape)) if how.rounding == "stochastic" else None
        dx = None
        if need_x:
            g, dx = self._round_and_multiply(grad, self.weight_scale, bits, input_shape, seed)
        else:
            g = round_rows(grad, shape, how, bits=bits, factor=self.weight_scale, seed=seed)
        if grad.dtype != torch.float16:  # a GradScaler looks for what is not finite, and skips the step
            check_finite(g.scale, "gradient", self.name)
        own = round_rows(grad, shape, how, bits=bits, seed=_plus(seed, 3)) if how.separate_gradient else g
        adapter = self._adapter(lora_a, lora_b)
        if need_x:
            dx, gh = self._grad_input(g, dx, own, adapter, input_shape, stored_dtype(grad.dtype))
        else:
            gh = rank_product(own.qdata, adapter.b.T)
        scales = {"left_scale": x.scale, "right_scale": own.scale, "bits": bits, "power_of_two": how.power_of_two}
        divisor = None if how.separate_gradient else self.weight_scale
        db = token_gradient(
            h, own.qdata, rank_scale=adapter.a_scale, divisor=divisor, seed=_plus(seed, 1), transposed=True, **scales
        )
        patches = unfold(x.qdata, input_shape, shape)
        da = token_gradient(
            gh, patches, rank_scale=adapter.b_scale, multiplier=self.scaling, seed=_plus(seed, 2), **scales
        )
        return Gradients(dx, da, db)

    def _grad_input(
        self,
        g: Rounded,
        dx: Tensor | None,
        own: Rounded,
        adapter: Adapter,
        input_shape: torch.Size,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        """The gradient of the input, (B, H, W, I), `dx` being the base's share; and gh = own b, int32 (M, r)."""
        how, shape = self.how, self.geometry
        given = output_shape(input_shape, shape)
        qdata = pixels(g.qdata, given, shape)
        if dx is None:
            dx = self.product(qdata.device, given, dtype, input_shape).of_codes(qdata, g.scale)
        if not isinstance(shape, Conv2dGeometry) or is_pointwise(shape):
            gh = low_rank_update(
                dx.view(-1, shape.in_channels),
                own.qdata,
                adapter.b.T,
                adapter.a.T,
                row_scale=own.scale,
                first_scale=adapter.a_scale,
                second_scale=adapter.b_scale,
                column_scale=self.input_scale,
                bits=how.gradient_bits,
                power_of_two=how.power_of_two,
            )
            return dx, gh
        gh = rank_product(own.qdata, adapter.b.T)
        rank_scale = adapter.a_scale.double() * adapter.b_scale.double()
        row_scale = own.scale.double().repeat_interleave(len(gh) // len(own.scale))[:, None]
        real = gh.double() * (row_scale * rank_scale)
        gh_qdata, gh_scale = quantize_groups(real, how.gradient_bits, len(own.scale), power_of_two=how.power_of_two)
        taps = shape.kernel_size[0] * shape.kernel_size[1]
        a = IntegerWeight(
            adapter.a, (self.rank, taps, shape.in_channels), adapter.a_scale, None, None, None,
            max(1, adapter.a.shape[1]),
        )  # fmt: skip
        update = weight_product(
            gh_qdata.view(*qdata.shape[:3], self.rank),
            a,
            window(shape),
            row_scale=gh_scale[:, 0].float(),
            column_scale=self._in_scale(),
            grad_input_size=grad_size(input_shape, shape),
            dtype=dtype,
        )
        return dx.add_(update), gh

    def _adapter(self, lora_a: Tensor, lora_b: Tensor) -> Adapter:
        """Made anew in each direction: nearest rounding makes the same, and saving them costs r (K + O) bytes."""
        how = self.how
        return Adapter(
            *pair_codes(
                to_rows(lora_a),
                lora_b.flatten(1),
                ADAPTER_BITS,
                power_of_two=how.power_of_two or how.integer_adapter,  # the scales that an INT8 adapter has already
                scaling=self.scaling,
                divisor_O=None if how.separate_gradient else self.weight_scale,
            )
        )

    def _round_and_multiply(
        self,
        x: Tensor,
        factor: Tensor | None,
        bits: int,
        input_shape: torch.Size | None,
        seed: Tensor | None = None,
    ) -> tuple[Rounded, Tensor | None]:
        """`x * factor` rounded; with the base's product where one call makes both: 8 bits, float scales, a scale a
        token.

        `input_shape` asks for the product of a gradient `x`, for an input of that shape.
        """
        how, shape = self.how, self.geometry
        plain = bits == 8 and not how.power_of_two and seed is None and how.granularity == "token"
        if plain and x.dtype in (torch.float32, torch.bfloat16):
            product = self.product(x.device, x.shape, x.dtype, input_shape)
            made = product(to_pixels(x, shape), None if factor is None else factor[None])
            return Rounded(made.codes.view(-1, made.codes.shape[3]), made.scale), made.out
        return round_rows(x, shape, how, bits=bits, factor=factor, seed=seed), None


def _no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Exact products in float32, where there are no compiled ones, must not become bfloat16."""
    kind = "cpu" if x.is_meta else x.device.type  # there is no autocast for meta
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _plus(seed: Tensor | None, offset: int) -> Tensor | None:
    return None if seed is None else seed + offset
