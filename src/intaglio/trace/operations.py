"""What an operation of torch runs, in products and vector work: one small function an operation, found by its name.

To let the recorder understand a custom operator, register a function for its name:

>>> register("mylib::int8_matmul", lambda args, out: [matmul(args["x"], args["w"].t(), out)])

Our own operators say what they run beside their schema (`kernels/<operation>/op.py`).

An operator that is not registered is recorded as vector work of its own name; for one from outside of torch the trace
says so in `header.step["unknown_operators"]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from intaglio.kernels.attention import op as attention
from intaglio.kernels.cost import Arguments, Convolution, Gemm, Vector, matmul
from intaglio.kernels.registry import OPS

__all__ = ["Arguments", "Gemm", "Vector", "counts_constants", "handler_of", "matmul", "register", "vector_kind"]

Handler = Callable[[Arguments, Any], Iterable[Gemm | Vector]]

HANDLERS: dict[str, Handler] = {}


def register(name: str, handler: Handler) -> None:
    """Say what the operator `name` ("namespace::name", every overload) runs.

    Args:
        handler: (arguments by name, result) -> products and vector work, in order. It sees shapes, not values.
    """
    HANDLERS[name] = handler


def handler_of(name: str) -> Handler | None:
    """What is registered for an operator, or what our own says of itself."""
    return HANDLERS.get(name) or (OPS[name].cost if name in OPS else None)


def counts_constants(name: str) -> bool:
    """Whether it is recorded where all operands are weights too: one that is trained is rounded anew in every step."""
    return name in OPS and OPS[name].counts_constants


def _convolution(args: Arguments, out: Tensor) -> list[Gemm]:
    x, w = args["input"], args["weight"]
    return [_conv_product("output", x, w, out, out, args)]


def _convolution_backward(args: Arguments, out: tuple[Tensor | None, ...]) -> list[Gemm]:
    grad, x, w = args["grad_output"], args["input"], args["weight"]
    found = []
    for wanted, pass_name, result in zip(args["output_mask"], ("grad_input", "grad_weight"), out, strict=False):
        if wanted and result is not None:
            found.append(_conv_product(pass_name, x, w, grad, result, args))
    return found


def _conv_product(pass_name: str, x: Tensor, w: Tensor, y: Tensor, result: Tensor, args: Arguments) -> Gemm:
    """One pass of a convolution of any dimension, as `schema` counts it. `y` is the output, or its gradient."""
    groups, transposed = args["groups"], args["transposed"]
    taps = math.prod(w.shape[2:])
    # A transposed convolution spreads each input pixel over the taps: its products are counted per input pixel.
    pixels = math.prod((x if transposed else y).shape[2:]) * y.shape[0]
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
    return Gemm(left, right, result, M, N, K, groups, pass_name=pass_name, **facts)


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


def _pair(values: Any) -> tuple[int, int]:
    values = [int(v) for v in values]
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


register("aten::mm", lambda a, out: [matmul(a["self"], a["mat2"], out)])
register("aten::bmm", lambda a, out: [matmul(a["self"], a["mat2"], out)])
register("aten::addmm", lambda a, out: [matmul(a["mat1"], a["mat2"], out)])
register("aten::baddbmm", lambda a, out: [matmul(a["batch1"], a["batch2"], out)])
register("aten::_int_mm", lambda a, out: [matmul(a["self"], a["mat2"], out)])
register("aten::convolution", _convolution)
register("aten::convolution_backward", _convolution_backward)
for kind in ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention"):
    register(f"aten::_scaled_dot_product_{kind}", attention.cost)
    register(f"aten::_scaled_dot_product_{kind}_backward", attention.gradient_cost)

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
