"""Linear and Conv2d over a frozen weight: float, or quantized and then `nn.Linear` and `nn.Conv2d` to whoever asks.

`output`: y = (x * input_scale) W_hat^T + bias. `grad_input`: dx = (dy W_hat) * input_scale. There is no `grad_weight`.
What multiplies is an object (`weight.py`), which a layer that trains something beside is given by `within`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from intaglio.kernels.weight_product import integer_weight
from intaglio.layers.fixed_dtype import FixedDtype
from intaglio.layers.geometry import Geometry, geometry_of
from intaglio.layers.hooks import InPlaceOfProduct, Train, is_hooked, made_from
from intaglio.layers.int8_weight import Int8Weight, multiplies
from intaglio.layers.remembered import Remembered, Tensors
from intaglio.layers.rotated_weight import RotatedWeight
from intaglio.layers.shown_weight import ShownWeight
from intaglio.layers.weight import FloatWeight, FrozenProduct, FrozenWeight, PackedWeight
from intaglio.quantizers.formats import Format
from intaglio.quantizers.quantize import QuantizedWeight, dequantize, quantize
from intaglio.quantizers.ranges import RangeSearch

Compute = Literal["integer", "float"]
"""How the products of a quantized layer are made."""


class QuantizedLayer(FixedDtype):
    """What both quantized layers share: the tensors of `QuantizedWeight`, an input scale, a frozen bias.

    `y = (x * input_scale) W_hat^T + bias`; `input_scale` float32 (I,) is None unless something was merged into it.
    """

    fixed_dtype = ("scale", "input_scale", "zero_point")

    qdata: Tensor
    scale: Tensor
    zero_point: Tensor | None
    input_scale: Tensor | None
    bias: nn.Parameter | None  # pyright: ignore[reportIncompatibleVariableOverride]
    format: Format
    geometry: Geometry
    compute: Compute = "float"
    """Set for a whole model by `install_integer_path`."""

    def _take(self, quantized: QuantizedWeight, input_scale: Tensor | None, bias: Tensor | None) -> None:
        self.format = quantized.format
        self.weight_shape = quantized.shape
        self._remembered: Remembered[PackedWeight | Int8Weight | RotatedWeight] = Remembered()
        self.register_buffer("qdata", quantized.qdata)
        self.register_buffer("scale", quantized.scale)
        self.register_buffer("zero_point", quantized.zero_point)
        self.register_buffer("input_scale", input_scale)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self._remembered.forget()  # it would hold the tensors from before
        return super()._apply(fn, recurse)

    def in_integers(self, dtype: torch.dtype) -> bool:
        """Whether the products of inputs of this dtype are made in integers."""
        return self.compute == "integer" and not self.format.has_minimum and multiplies(self.geometry, dtype)

    def frozen_tensors(self) -> Tensors:
        """qdata, scale, zero point, input scale and bias."""
        own = self._buffers
        return own["qdata"], own["scale"], own["zero_point"], own["input_scale"], self._parameters["bias"]

    def frozen_weight(self, dtype: torch.dtype) -> PackedWeight | Int8Weight | RotatedWeight:
        """What multiplies inputs of this dtype."""
        integer = self.in_integers(dtype)
        return made_from(self, self._remembered, self.frozen_tensors(), integer, lambda t: self._make(t, integer))

    def _make(self, tensors: Tensors, integer: bool) -> PackedWeight | Int8Weight | RotatedWeight:
        qdata, scale, zero_point, input_scale, bias = tensors
        assert qdata is not None
        assert scale is not None
        quantized = QuantizedWeight(qdata, scale, zero_point, self.format, self.weight_shape)
        if integer and self.format.rotation is not None:
            plain = replace(quantized, format=replace(self.format, rotation=None))
            inner = Int8Weight(integer_weight(plain), bias, None, self.geometry)
            return RotatedWeight(inner, self.format.rotation, input_scale)
        if integer:
            return Int8Weight(integer_weight(quantized), bias, input_scale, self.geometry)
        return PackedWeight(quantized, bias, input_scale, self.geometry)

    def quantized(self) -> QuantizedWeight:
        return QuantizedWeight(self.qdata, self.scale, self.zero_point, self.format, self.weight_shape)

    def dequantized(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """`W_hat` without `input_scale`, in its float shape. A new tensor at every call."""
        return dequantize(self.quantized(), dtype)

    @property
    def weight(self) -> Tensor:
        """The dequantized weight, for code that looks at `layer.weight`. Not for computing, nor for writing."""
        dtype = self.scale.dtype if self.bias is None else self.bias.dtype
        return self.dequantized(dtype).as_subclass(ShownWeight)

    def forward(self, x: Tensor, train: Train | None = None) -> Tensor:
        """The frozen product, or what a layer that trains something beside makes in its place: see `within`."""
        x = compute_input(x)
        return FrozenProduct.apply(x, self.frozen_weight(x.dtype)) if train is None else train(x)


class QuantizedLinear(QuantizedLayer, nn.Linear):  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]
    def __init__(self, layer: nn.Linear, quantized: QuantizedWeight, input_scale: Tensor | None = None):
        nn.Module.__init__(self)  # nn.Linear's own would allocate a float weight
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.geometry = geometry_of(layer)
        self._take(quantized, input_scale, layer.bias)

    def extra_repr(self) -> str:
        return f"{nn.Linear.extra_repr(self)}, format={self.format.name}"


class QuantizedConv2d(QuantizedLayer, nn.Conv2d):  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]
    def __new__(cls, layer: Any = None, *args: Any, **kwargs: Any) -> Any:
        # PEFT makes the low-rank twin of a convolution as type(base)(in_channels, rank, ...): that one is plain.
        return nn.Conv2d(layer, *args, **kwargs) if isinstance(layer, int) else super().__new__(cls)

    def __init__(self, layer: nn.Conv2d, quantized: QuantizedWeight, input_scale: Tensor | None = None):
        nn.Module.__init__(self)
        for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"):
            setattr(self, name, getattr(layer, name))
        self.transposed, self.output_padding, self.padding_mode = False, (0, 0), layer.padding_mode
        self.geometry = geometry_of(layer)
        self._take(quantized, input_scale, layer.bias)

    def extra_repr(self) -> str:
        return f"{nn.Conv2d.extra_repr(self)}, format={self.format.name}"


def quantize_layer(
    layer: nn.Linear | nn.Conv2d, format: Format, search: RangeSearch
) -> QuantizedLinear | QuantizedConv2d:
    """The quantized twin of a float layer. Its bias is shared, its weight is not kept."""
    return with_weight(layer, quantize(layer.weight, format, search))


def with_weight(
    layer: nn.Linear | nn.Conv2d, quantized: QuantizedWeight, input_scale: Tensor | None = None
) -> QuantizedLinear | QuantizedConv2d:
    """A quantized layer of the same geometry and bias as `layer`, around the given codes."""
    if isinstance(layer, nn.Linear):
        return QuantizedLinear(layer, quantized, input_scale)
    return QuantizedConv2d(layer, quantized, input_scale)


def compute_input(x: Tensor) -> Tensor:
    """`x` in the dtype that the surroundings compute in.

    A custom autograd function's backward runs outside of autocast: cast before it, and both directions agree.
    """
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(kind))
    return x


def geometry(layer: nn.Linear | nn.Conv2d) -> Geometry:
    return layer.geometry if isinstance(layer, QuantizedLayer) else geometry_of(layer)


def device(layer: nn.Linear | nn.Conv2d) -> torch.device:
    """Where the layer's weight lies."""
    return layer.qdata.device if isinstance(layer, QuantizedLayer) else layer.weight.device


def in_integers(layer: nn.Linear | nn.Conv2d, dtype: torch.dtype) -> bool:
    """Whether the layer's products of this dtype are made in integers."""
    return isinstance(layer, QuantizedLayer) and layer.in_integers(dtype)


def adds_pair(layer: nn.Linear | nn.Conv2d, dtype: torch.dtype) -> bool:
    """Whether the layer's integer product takes a low-rank pair along: not where its inputs are rotated first."""
    return isinstance(layer, QuantizedLayer) and layer.in_integers(dtype) and layer.format.rotation is None


def weight_of(layer: nn.Linear | nn.Conv2d, dtype: torch.dtype) -> FrozenWeight:
    """What multiplies inputs of `dtype` in this layer."""
    if isinstance(layer, QuantizedLayer):
        return layer.frozen_weight(dtype)
    return FloatWeight(layer.weight, layer.bias, geometry_of(layer))


def within(layer: nn.Linear | nn.Conv2d, x: Tensor, train: Train) -> Tensor:
    """`train(x)`, which uses the tensors of a frozen layer: inside of the layer's own call where that is hooked.

    Offloading (accelerate, diffusers) brings a layer's tensors for the time of its call, by a hook or in the place of
    `forward`; a layer that is trained beside must not take them behind its back.
    """
    if not is_hooked(layer):
        return train(x)
    if isinstance(layer, QuantizedLayer):
        return layer(x, train)
    with InPlaceOfProduct(layer, train):
        return layer(x)


def to_float(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """A plain layer that computes what `layer` computes; itself when it is plain already.

    The dequantized weight takes the dtype of the bias (float32 without one), `input_scale` is folded in.
    """
    if not isinstance(layer, QuantizedLayer):
        return layer
    dtype = torch.float32 if layer.bias is None else layer.bias.dtype
    weight = layer.dequantized(torch.float32)
    if layer.input_scale is not None:
        weight = scale_inputs(layer, weight, layer.input_scale)
    if isinstance(layer, nn.Linear):
        plain: nn.Linear | nn.Conv2d = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    else:
        assert isinstance(layer, nn.Conv2d)
        plain = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # pyright: ignore[reportArgumentType]
            layer.stride,  # pyright: ignore[reportArgumentType]
            layer.padding,  # pyright: ignore[reportArgumentType]
            layer.dilation,  # pyright: ignore[reportArgumentType]
            layer.groups,
            bias=False,
            device="meta",
        )
    plain.weight = nn.Parameter(weight.to(dtype).contiguous(), requires_grad=False)
    plain.bias = cast("nn.Parameter | None", layer.bias)  # pyright: ignore[reportAttributeAccessIssue]
    return plain


def scale_inputs(layer: nn.Linear | nn.Conv2d, weight: Tensor, factor: Tensor) -> Tensor:
    """`weight` (O, I / groups, ...) with each input channel multiplied by its `factor` (I,)."""
    if weight.ndim == 2:
        return weight * factor
    out_channels, per_group = weight.shape[:2]
    groups = len(factor) // per_group
    by_group = factor.view(groups, 1, per_group).expand(groups, out_channels // groups, per_group)
    return weight * by_group.reshape(out_channels, per_group, 1, 1)
