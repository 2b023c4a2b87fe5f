"""Linear and Conv2d over a frozen weight, float or packed integers: neither direction leaves a float copy behind.

`output`: y = (x * input_scale) W_hat^T + bias. `grad_input`: dx = (dy W_hat) * input_scale. There is no `grad_weight`.
Each runs in integers where the layer's `integer_gemms` names it (`layers/integer.py`), else in float.
The quantized layers are `nn.Linear` and `nn.Conv2d` to whoever asks by type.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from intaglio.kernels.weight_product import IntegerWeight, LayerCall, integer_weight
from intaglio.layers import integer
from intaglio.layers.fixed_dtype import FixedDtype
from intaglio.layers.geometry import Geometry, geometry_of
from intaglio.layers.shown_weight import ShownWeight
from intaglio.quantizers.formats import Format
from intaglio.quantizers.quantize import QuantizedWeight, dequantize, quantize
from intaglio.quantizers.ranges import RangeSearch


class QuantizedLayer(FixedDtype):
    """What both quantized layers share: the tensors of `QuantizedWeight`, an input scale, a frozen bias.

    `y = (x * input_scale) W_hat^T + bias`; `input_scale` float32 (I,) is None unless something was merged into it.
    """

    fixed_dtype = ("scale", "input_scale")

    qdata: Tensor
    scale: Tensor
    zero_point: Tensor | None
    input_scale: Tensor | None
    bias: nn.Parameter | None  # pyright: ignore[reportIncompatibleVariableOverride]
    format: Format
    geometry: Geometry
    integer_gemms: tuple[str, ...] = ()
    """Which of `output` and `grad_input` run in integers; set for a whole model by `set_integer_gemms`."""

    def _take(self, quantized: QuantizedWeight, input_scale: Tensor | None, bias: Tensor | None) -> None:
        self.format = quantized.format
        self.calls: dict[Any, LayerCall] = {}
        self.weight_shape = quantized.shape
        self.register_buffer("qdata", quantized.qdata)
        self.register_buffer("scale", quantized.scale)
        self.register_buffer("zero_point", quantized.zero_point)
        self.register_buffer("input_scale", input_scale)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))

    def __getstate__(self) -> dict[str, Any]:
        """Without what is remembered: it holds addresses, and a copy makes its own."""
        state = {**self.__dict__, "calls": {}}
        state.pop("_integer_weight", None)
        return state

    def dequantized(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """`W_hat` without `input_scale`, in its float shape. A new tensor at every call."""
        return dequantize(
            QuantizedWeight(self.qdata, self.scale, self.zero_point, self.format, self.weight_shape), dtype
        )

    def integer_weight(self) -> IntegerWeight:
        """What the packed codes are multiplied as in integers: a view, without `input_scale`. Remembered."""
        own = self._buffers
        qdata, scale, zero_point = own["qdata"], own["scale"], own["zero_point"]
        assert qdata is not None
        assert scale is not None
        known = self.__dict__.get("_integer_weight")
        if known is None or known[0] is not qdata or known[1] is not scale or known[2] != integer.version(scale):
            quantized = QuantizedWeight(qdata, scale, zero_point, self.format, self.weight_shape)
            known = self.__dict__["_integer_weight"] = (qdata, scale, integer.version(scale), integer_weight(quantized))
        return known[3]

    @property
    def weight(self) -> Tensor:
        """The dequantized weight, for code that looks at `layer.weight`. Not for computing, nor for writing."""
        dtype = self.scale.dtype if self.bias is None else self.bias.dtype
        return self.dequantized(dtype).as_subclass(ShownWeight)

    def forward(self, x: Tensor) -> Tensor:
        return FrozenProduct.apply(compute_input(x), self)


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


def float_weight(layer: nn.Linear | nn.Conv2d, dtype: torch.dtype) -> Tensor:
    """`W_hat` of the layer in `dtype`; freshly dequantized when the layer is quantized."""
    if isinstance(layer, QuantizedLayer):
        return layer.dequantized(dtype)
    return layer.weight.detach().to(dtype)


def input_scale(layer: nn.Linear | nn.Conv2d) -> Tensor | None:
    """float32 (I,), or None for 1."""
    return layer.input_scale if isinstance(layer, QuantizedLayer) else None


def integer_base(layer: nn.Linear | nn.Conv2d, gemm: str, dtype: torch.dtype) -> QuantizedLayer | None:
    """The layer, if it computes this product of this dtype in integers; else None."""
    if isinstance(layer, QuantizedLayer) and gemm in layer.integer_gemms and integer.can(layer.geometry, dtype):
        return layer
    return None


def set_integer_gemms(model: nn.Module, gemms: Sequence[str]) -> None:
    """Say for every quantized layer of `model` which of its products run in integers.

    Raises:
        UnknownChoice: a name that is not in `layers.integer.GEMMS`.
    """
    names = integer.check_gemms(gemms)
    for module in model.modules():
        if isinstance(module, QuantizedLayer):
            module.integer_gemms = names


def output(layer: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
    """What the layer computes, in the dtype of `x`."""
    base = integer_base(layer, "output", x.dtype)
    if base is not None:
        return integer.output(base, x, base.input_scale, bias=base.bias)[1]
    shape, scale = geometry(layer), input_scale(layer)
    if scale is not None:
        x = x * shape.along_channels(scale.to(x.dtype), x)
    bias = None if layer.bias is None else layer.bias.detach().to(x.dtype)
    return shape.output(x, float_weight(layer, x.dtype), bias)


def grad_input(
    layer: nn.Linear | nn.Conv2d,
    grad: Tensor,
    input_shape: torch.Size,
    factor: Tensor | None = None,
    out_factor: Tensor | None = None,
) -> Tensor:
    """The gradient of `output` with respect to `x`, in the dtype of `grad`.

    Args:
        factor: float32 (O,) or one row per sample (B, O), multiplied into `grad` first; None for 1.
        out_factor: float32 (I,), multiplied into the result; None for 1.
    """
    shape, scale = geometry(layer), input_scale(layer)
    base = integer_base(layer, "grad_input", grad.dtype)
    if base is not None:
        return integer.grad_input(base, grad, factor, input_shape, out_factor=out_factor)[0]
    if out_factor is not None:
        scale = out_factor if scale is None else scale * out_factor
    if factor is not None:
        grad = grad * shape.along_channels(factor.to(grad.dtype), grad)
    grad_x = shape.grad_input(grad, float_weight(layer, grad.dtype), input_shape)
    return grad_x if scale is None else grad_x * shape.along_channels(scale.to(grad_x.dtype), grad_x)


class FrozenProduct(torch.autograd.Function):
    """`output` and `grad_input` under autograd. Nothing is saved but the shape of the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Linear | nn.Conv2d) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.layer, ctx.input_shape = layer, x.shape
        return output(layer, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not ctx.needs_input_grad[0]:
            return None, None
        return grad_input(ctx.layer, grad, ctx.input_shape), None


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
