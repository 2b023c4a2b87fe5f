"""What an operation of torch runs, in products and vector work: one small function an operation, found by its name.

To let the recorder understand a custom operator, register a function for its name:

>>> register("mylib::int8_matmul", lambda args, out: [matmul(args["x"], args["w"].t(), out)])

An operator that is not registered is recorded as vector work of its own name; for one from outside of torch the trace
says so in `header.step["unknown_operators"]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from intaglio.trace.schema import Convolution


@dataclass(frozen=True, slots=True)
class Product:
    """`batch` products `left_MK @ right_KN`. What is left open is found out from where the operands come from."""

    left: Tensor | None  # None: it never left the operator
    right: Tensor | None
    result: Tensor | None
    M: int
    N: int
    K: int
    batch: int = 1
    operation: str = "gemm"
    pass_name: str = ""
    roles: tuple[str, str] | None = None
    part: str = ""  # of an attention: what is appended to the layer's name
    convolution: Convolution | None = None

    def columns(self, length: int) -> Product:
        """The part that gives `length` of the N columns."""
        return replace(self, N=length)


@dataclass(frozen=True, slots=True)
class Vector:
    """Element-wise or row-wise work."""

    kind: str
    elements: int


Arguments = Mapping[str, Any]
Handler = Callable[[Arguments, Any], Iterable[Product | Vector]]

HANDLERS: dict[str, Handler] = {}


def register(name: str, handler: Handler) -> None:
    """Say what the operator `name` ("namespace::name", every overload) runs.

    Args:
        handler: (arguments by name, result) -> products and vector work, in order. It sees shapes, not values.
    """
    HANDLERS[name] = handler


def matmul(left: Tensor, right: Tensor, result: Tensor | None, **facts: Any) -> Product:
    """`left (..., M, K) @ right (..., K, N)`; what lies before the last two axes is the batch."""
    *batch, M, K = left.shape
    return Product(left, right, result, M, right.shape[-1], K, _volume(batch), **facts)


def _convolution(args: Arguments, out: Tensor) -> list[Product]:
    x, w = args["input"], args["weight"]
    return [_conv_product("output", x, w, out, out, args)]


def _convolution_backward(args: Arguments, out: tuple[Tensor | None, ...]) -> list[Product]:
    grad, x, w = args["grad_output"], args["input"], args["weight"]
    found = []
    for wanted, pass_name, result in zip(args["output_mask"], ("grad_input", "grad_weight"), out, strict=False):
        if wanted and result is not None:
            found.append(_conv_product(pass_name, x, w, grad, result, args))
    return found


def _conv_product(pass_name: str, x: Tensor, w: Tensor, y: Tensor, result: Tensor, args: Arguments) -> Product:
    """One pass of a convolution of any dimension, as `schema` counts it. `y` is the output, or its gradient."""
    groups, transposed = args["groups"], args["transposed"]
    taps = _volume(w.shape[2:])
    # A transposed convolution spreads each input pixel over the taps: its products are counted per input pixel.
    pixels = _volume((x if transposed else y).shape[2:]) * y.shape[0]
    O, I = y.shape[1] // groups, x.shape[1] // groups  # noqa: E741
    if transposed:
        shapes = {
            "output": (pixels, O * taps, I),
            "grad_input": (pixels, I, O * taps),
            "grad_weight": (I, O * taps, pixels),
        }
    else:
        shapes = {
            "output": (pixels, O, I * taps),
            "grad_input": (pixels, I, O * taps),
            "grad_weight": (I * taps, O, pixels),
        }
    operands = {"output": (x, w), "grad_input": (y, w), "grad_weight": (x, y)}
    left, right = operands[pass_name]
    M, N, K = shapes[pass_name]
    planar = w.ndim == 4 and not transposed
    facts: dict[str, Any] = {"operation": "conv2d", "convolution": _geometry(x, w, y, args)} if planar else {}
    return Product(left, right, result, M, N, K, groups, pass_name=pass_name, **facts)


def _geometry(x: Tensor, w: Tensor, y: Tensor, args: Arguments) -> Convolution:
    return Convolution(
        in_channels=x.shape[1],
        out_channels=y.shape[1],
        kernel=_pair(w.shape[2:]),
        in_spatial=_pair(x.shape[2:]),
        out_spatial=_pair(y.shape[2:]),
        stride=_pair(args["stride"]),
        padding=_pair(args["padding"]),
        dilation=_pair(args["dilation"]),
        groups=args["groups"],
    )


def _attention(args: Arguments, out: tuple[Tensor, ...]) -> list[Product | Vector]:
    """One fused softmax(Q K^T) V, of (batch, heads, tokens, features). The kernel keeps the scores to itself."""
    q, k, v = args["query"], args["key"], args["value"]
    B, (T, D), S = _volume(q.shape[:-2]), q.shape[-2:], k.shape[-2]
    common: dict[str, Any] = {"batch": B, "operation": "attention_product", "pass_name": "output"}
    return [
        Product(q, k, None, T, S, D, roles=("query", "key"), part=".scores", **common),
        Vector("softmax", B * T * S),
        Product(None, v, out[0], T, v.shape[-1], S, roles=("probabilities", "value"), part=".values", **common),
    ]


def _attention_backward(args: Arguments, out: tuple[Tensor | None, ...]) -> list[Product | Vector]:
    """The gradients of Q, K and V that something needs. The kernel makes P again; that product is its own choice, and
    not counted."""
    q, k, v = args["query"], args["key"], args["value"]
    grad = args["grad_out"] if "grad_out" in args else args["grad_out_"]
    B, (T, D), S, E = _volume(q.shape[:-2]), q.shape[-2:], k.shape[-2], v.shape[-1]
    common: dict[str, Any] = {"batch": B, "operation": "attention_product", "pass_name": "grad_input"}
    found: list[Product | Vector] = []
    if v.requires_grad:
        found.append(
            Product(None, grad, None, S, E, T, roles=("probabilities", "grad_output"), part=".values.value", **common)
        )
    if q.requires_grad or k.requires_grad:
        found += [
            Product(grad, v, None, T, S, E, roles=("grad_output", "value"), part=".values.probabilities", **common),
            Vector("softmax", B * T * S),
        ]
    if q.requires_grad:
        found.append(Product(None, k, None, T, D, S, roles=("grad_scores", "key"), part=".scores.query", **common))
    if k.requires_grad:
        found.append(Product(None, q, None, S, D, T, roles=("grad_scores", "query"), part=".scores.key", **common))
    return found


def _int8_matmul(args: Arguments, out: Tensor) -> list[Product]:
    return [matmul(args["x"], args["w"] if args["transposed"] else args["w"].t(), out)]


def _weight_product(args: Arguments, out: Tensor) -> list[Product]:
    """INT8 codes (B, H, W, C) under a frozen weight of (O, taps, I): `output`, or `grad_input` where `back`."""
    x, (O, taps, I) = args["x"], args["shape"]  # noqa: E741
    kernel, stride, padding, dilation, size = (tuple(args["geometry"][i : i + 2]) for i in range(0, 10, 2))
    (B, H, W, _), back = x.shape, args["back"]
    M, N, K = (B * H * W, I, taps * O) if back else (B * size[0] * size[1], O, taps * I)
    facts: dict[str, Any] = {}
    if B * H > 1:
        spatial = {"in_spatial": size, "out_spatial": (H, W)} if back else {"in_spatial": (H, W), "out_spatial": size}
        geometry = Convolution(I, O, kernel, stride=stride, padding=padding, dilation=dilation, **spatial)
        facts = {"operation": "conv2d", "convolution": geometry}
    return [Product(x, args["qdata"], out, M, N, K, **facts)]


def _low_rank_update(args: Arguments, out: tuple[Tensor, Tensor]) -> list[Product | Vector]:
    """Both small products of a low-rank pair in one direction, what is between them, and the sum."""
    h, codes = out
    return [
        matmul(args["x"], args["first"].t(), h),
        Vector("quantize", codes.numel()),
        matmul(codes, args["second"].t(), None),
        Vector("add", args["out"].numel()),
    ]


def _token_gradient(args: Arguments, out: Tensor) -> list[Product | Vector]:
    h, right = args["h"], args["right"]
    product = Product(None, right, out, h.shape[1], right.shape[1], len(h), pass_name="grad_weight")
    return [Vector("quantize", h.numel()), product]


def _group_norm(args: Arguments, x: Tensor) -> list[Vector]:
    """The norm, and the SiLU behind it."""
    return [Vector("group_norm", x.numel()), *([Vector("silu", x.numel())] if args["silu"] else [])]


def _gated(args: Arguments, y: Tensor) -> list[Vector]:
    """The activation, with the product of what it gates."""
    if args["function"] == "silu":
        return [Vector("silu", y.numel()), *([Vector("mul", y.numel())] if args["gated"] else [])]
    return [Vector("geglu" if args["gated"] else "gelu", y.numel())]


def _volume(shape: Iterable[int]) -> int:
    product = 1
    for length in shape:
        product *= int(length)
    return product


def _pair(values: Any) -> tuple[int, int]:
    values = [int(v) for v in values]
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


register("intaglio::pair_down", lambda a, out: [matmul(a["x"], a["a"].t(), out)])
register("intaglio::pair_up", lambda a, out: [matmul(a["h"], a["a"], a["x"]), Vector("add", a["x"].numel())])
register("intaglio::pair_sums", lambda a, out: [matmul(a["h"].t(), a["x"], out)])
register("aten::mm", lambda a, out: [matmul(a["self"], a["mat2"], out)])
register("aten::bmm", lambda a, out: [matmul(a["self"], a["mat2"], out)])
register("aten::addmm", lambda a, out: [matmul(a["mat1"], a["mat2"], out)])
register("aten::baddbmm", lambda a, out: [matmul(a["batch1"], a["batch2"], out)])
register("aten::_int_mm", lambda a, out: [matmul(a["self"], a["mat2"], out)])
register("aten::convolution", _convolution)
register("aten::convolution_backward", _convolution_backward)
for kind in ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention"):
    register(f"aten::_scaled_dot_product_{kind}", _attention)
    register(f"aten::_scaled_dot_product_{kind}_backward", _attention_backward)

register("intaglio::attention", _attention)
register("intaglio::attention_gradient", _attention_backward)
register("intaglio::int8_matmul", _int8_matmul)
register("intaglio::weight_product", _weight_product)
register("intaglio::low_rank_update", _low_rank_update)
register("intaglio::rank_product", lambda a, out: [matmul(a["x"], a["first"].t(), out)])
register("intaglio::token_gradient", _token_gradient)
register("intaglio::codes", lambda a, out: [Vector("quantize", a["x"].numel())])
register("intaglio::quantize_rows", lambda a, out: [Vector("quantize", a["x"].numel())])
register("intaglio::column_sums", lambda a, out: [Vector("scale_gradient", a["a"].numel())])
register("intaglio::layer_norm", lambda a, out: [Vector("layer_norm", a["x"].numel())])
register("intaglio::layer_norm_grad", lambda a, out: [Vector("layer_norm", a["grad"].numel())])
register("intaglio::group_norm", lambda a, out: _group_norm(a, a["x"]))
register("intaglio::group_norm_grad", lambda a, out: _group_norm(a, a["grad"]))
register("intaglio::gated", lambda a, out: _gated(a, out[0]))
register("intaglio::gated_grad", lambda a, out: _gated(a, a["grad"]))

# Arithmetic that ends in INT8 codes is a quantizer's: one `quantize` in all.
QUANTIZER_STEPS = {"abs", "amax", "mul", "round", "floor", "clamp", "le", "where", "frexp", "gt", "eq"}

# The values stay, or are one number's multiple of what they were: nothing is computed that an accelerator would not
# fold into a scale or an address.
COPIES = {"aten::clone", "aten::_to_copy", "aten::contiguous", "aten::lift_fresh", "aten::alias_copy"}
# Moves values, or makes constants: no operation of the step.
_MOVES = """cat stack copy_ expand_copy slice_backward select_backward constant_pad_nd fill_ zero_ empty empty_like
    new_empty new_empty_strided empty_strided zeros zeros_like ones ones_like full full_like new_zeros new_ones arange
    scalar_tensor index select_scatter slice_scatter detach set_ resize_ _foreach_copy_ randn rand randn_like"""
MOVES = COPIES | {f"aten::{name}" for name in _MOVES.split()}
# Names of torch -> kinds that the accelerator model prices (`accelerator/constants/vector.csv`).
KINDS = {
    "native_group_norm": "group_norm",
    "native_layer_norm": "layer_norm",
    "_fused_rms_norm": "rms_norm",
    "sub": "add",
    "rsub": "add",
    "div": "mul",
    "neg": "mul",
    "mean": "sum",
    "_softmax": "softmax",
    "_safe_softmax": "softmax",
    "upsample_nearest2d": "upsample",
}


def vector_kind(name: str) -> str:
    """ "aten::native_group_norm_backward" -> "group_norm"."""
    plain = name.partition("::")[2].removeprefix("_foreach_").removesuffix("_")
    for suffix in ("_backward", "_backward_data"):
        plain = plain.removesuffix(suffix)
    return KINDS.get(plain, plain.lstrip("_"))
