"""INT8 codes times a frozen weight, in either direction, for Linear and Conv2d."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from intaglio.kernels.cost import Arguments, Convolution, Gemm
from intaglio.kernels.registry import Op
from intaglio.kernels.weight_product.weight import IntegerWeight
from intaglio.kernels.weight_product.window import Window
from intaglio.quantizers.integer_step import MAX_REDUCTION


def weight_product(
    x_BHWC: Tensor,
    weight: IntegerWeight,
    window: Window,
    *,
    row_scale: Tensor,
    column_scale: Tensor,
    bias: Tensor | None = None,
    grad_input_size: tuple[int, int] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """`output` or `grad_input` of a frozen layer: integer sums, exact in int32, then

        sums * row_scale * column_scale + bias,   each operation rounded to float32, in this order.

    Args:
        x_BHWC: int8 codes (B, H, W, C), the quantized input with C = I, or gradient with C = O. A matrix is
            (1, 1, M, C) under the default `Window()`.
        row_scale: float32 (G,), for each of G equal runs of output rows: tokens or samples.
        column_scale: float32 (columns): one per output channel; for the gradient one per input channel.
        bias: float32 (columns), or None.
        grad_input_size: height and width of the layer's input; asks for `grad_input`. None asks for `output`.
        dtype: torch.float32 or torch.bfloat16.

    Returns:
        (B, H', W', O), or (B, H, W, I).

    Raises:
        ValueError: a shape that does not fit, or a reduction longer than int32 holds.
    """
    if x_BHWC.dtype != torch.int8 or x_BHWC.ndim != 4:
        raise ValueError(f"weight_product: x {x_BHWC.dtype} {tuple(x_BHWC.shape)}; expected torch.int8 (B, H, W, C)")
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"weight_product: a result in {dtype}; expected torch.float32 or torch.bfloat16")
    scales = (len(row_scale), len(column_scale), None if bias is None else len(bias))
    size = check_product(tuple(x_BHWC.shape), weight, window, scales, grad_input_size)
    back = grad_input_size is not None
    geometry = [*window.kernel, *window.stride, *window.padding, *window.dilation, *size]
    return op(
        x_BHWC, weight.qdata, weight.zero_point, weight.ratio, weight.levels, list(weight.shape), weight.group_size,
        geometry, back, row_scale, column_scale, bias, dtype,
    )  # fmt: skip


def check_product(
    shape_BHWC: tuple[int, ...],
    weight: IntegerWeight,
    window: Window,
    scales: tuple[int, int, int | None],
    grad_input_size: tuple[int, int] | None,
) -> tuple[int, int]:
    """Height and width of the product's result; `scales` are how many of rows and of columns, and how many biases.

    Raises:
        ValueError: a shape that does not fit, or a reduction longer than int32 holds.
    """
    out, taps, channels = weight.shape
    batch, height, width, given = shape_BHWC
    wanted, columns = (channels, out) if grad_input_size is None else (out, channels)
    if given != wanted or window.taps != taps:
        raise ValueError(
            f"weight_product: codes {shape_BHWC} against a weight of {out} x {taps} taps x "
            f"{channels} under {window.taps} taps; expected (B, H, W, {wanted})"
        )
    if taps * wanted > MAX_REDUCTION:
        raise ValueError(
            f"weight_product: a sum of {taps * wanted:,} products may not fit int32; at most {MAX_REDUCTION:,}"
        )
    if grad_input_size is not None and window.output_size(grad_input_size) != (height, width):
        raise ValueError(f"weight_product: an input of {grad_input_size} has no output of {(height, width)}")
    size = window.output_size((height, width)) if grad_input_size is None else grad_input_size
    if min(size) < 0:
        raise ValueError(f"weight_product: a picture of {(height, width)} is smaller than the kernel {window.kernel}")
    rows, (row_scales, column_scales, biases) = batch * size[0] * size[1], scales
    if (rows % row_scales if row_scales else rows) or column_scales != columns or biases not in (None, columns):
        raise ValueError(
            f"weight_product: {row_scales} row scales, {column_scales} column scales and {biases} biases for {rows} "
            f"rows and {columns} columns"
        )
    return size


def window_of(geometry: list[int]) -> tuple[Window, tuple[int, int]]:
    """The window, and height and width of the result, as the operator passes them: ten numbers."""
    kernel, stride, padding, dilation, size = zip(geometry[::2], geometry[1::2], strict=True)
    return Window(kernel, stride, padding, dilation), size


def _fake(
    x: Tensor,
    qdata: Tensor,
    zero_point: Tensor | None,
    ratio: Tensor | None,
    levels: Tensor | None,
    shape: list[int],
    group_size: int,
    geometry: list[int],
    back: bool,
    row_scale: Tensor,
    column_scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    return x.new_empty(x.shape[0], geometry[8], geometry[9], shape[2] if back else shape[0], dtype=dtype)


def _cost(args: Arguments, out: Tensor) -> list[Gemm]:
    """INT8 codes (B, H, W, C) under a frozen weight of (O, taps, I): `output`, or `grad_input` where `back`."""
    x, (O, taps, I) = args["x"], args["shape"]  # noqa: E741
    window, size = window_of(args["geometry"])
    (B, H, W, _), back = x.shape, args["back"]
    M, N, K = (B * H * W, I, taps * O) if back else (B * size[0] * size[1], O, taps * I)
    facts: dict[str, Any] = {}
    if B * H > 1:
        spatial = (size, (H, W)) if back else ((H, W), size)
        how = (window.stride, window.padding, window.dilation)
        facts = {"operation": "conv2d", "convolution": Convolution(I, O, window.kernel, *spatial, *how)}
    return [Gemm(x, args["qdata"], out, M, N, K, **facts)]


op = Op("weight_product", _fake, cost=_cost)
