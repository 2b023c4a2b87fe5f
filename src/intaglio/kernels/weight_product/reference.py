"""What the product with a frozen weight is, in torch: taps in a loop over exact matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.kernels.int8_matmul.reference import exact_product
from intaglio.kernels.weight_product.op import op, window_of
from intaglio.kernels.weight_product.weight import IntegerWeight
from intaglio.kernels.weight_product.window import Window


def output_sums(x_BHWI: Tensor, codes_OTI: Tensor, window: Window) -> Tensor:
    """int8 (B, H, W, I) -> int32 (B, H', W', O): sums over taps and input channels; outside of the image is 0."""
    batch, height, width, _ = x_BHWI.shape
    out_height, out_width = window.output_size((height, width))
    total = torch.zeros(batch * out_height * out_width, codes_OTI.shape[0], dtype=torch.int32, device=x_BHWI.device)
    top, left = window.padding
    padded = torch.nn.functional.pad(x_BHWI, (0, 0, left, left, top, top))
    for tap in range(window.taps):
        total += exact_product(
            under_tap(padded, tap, window, (out_height, out_width)).flatten(0, 2), codes_OTI[:, tap].T
        )
    return total.view(batch, out_height, out_width, -1)


def grad_input_sums(grad_BHWO: Tensor, codes_OTI: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """int8 (B, H', W', O) -> int32 (B, H, W, I): the transpose of `output_sums`."""
    batch, out_height, out_width, _ = grad_BHWO.shape
    top, left = window.padding
    total = torch.zeros(
        batch, size[0] + 2 * top, size[1] + 2 * left, codes_OTI.shape[2], dtype=torch.int32, device=grad_BHWO.device
    )
    for tap in range(window.taps):
        part = exact_product(grad_BHWO.flatten(0, 2), codes_OTI[:, tap])
        under = under_tap(total, tap, window, (out_height, out_width))
        under += part.view(under.shape)
    return total[:, top : top + size[0], left : left + size[1]]


def under_tap(padded: Tensor, tap: int, window: Window, size: tuple[int, int]) -> Tensor:
    """The view of a padded image (B, H, W, C) that one tap meets, (B, H', W', C)."""
    y, x = tap // window.kernel[1] * window.dilation[0], tap % window.kernel[1] * window.dilation[1]
    rows = slice(y, y + (size[0] - 1) * window.stride[0] + 1, window.stride[0])
    columns = slice(x, x + (size[1] - 1) * window.stride[1] + 1, window.stride[1])
    return padded[:, rows, columns]


def scaled(sums: Tensor, row_scale: Tensor, column_scale: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """sums * row_scale * column_scale + bias: each operation rounded to float32, in this order, and to `dtype` last.

    `row_scale` (G,): one for each of G equal runs of rows.
    """
    flat = sums.flatten(0, -2).float()
    value = flat * row_scale.repeat_interleave(flat.shape[0] // len(row_scale))[:, None] * column_scale
    if bias is not None:
        value = value + bias
    return value.to(dtype).view(sums.shape)


def weight_in(
    qdata: Tensor,
    shape: list[int],
    scale: Tensor,
    zero_point: Tensor | None,
    ratio: Tensor | None,
    levels: Tensor | None,
    group_size: int,
) -> IntegerWeight:
    """The weight that the operator's arguments are."""
    return IntegerWeight(qdata, (shape[0], shape[1], shape[2]), scale, zero_point, ratio, levels, group_size)


@op.reference
def product(
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
    weight = weight_in(qdata, shape, column_scale, zero_point, ratio, levels, group_size)
    window, size = window_of(geometry)
    if not x.shape[0] * size[0] * size[1] * (shape[2] if back else shape[0]):
        return x.new_empty(x.shape[0], *size, shape[2] if back else shape[0], dtype=dtype)
    codes = weight.codes().view(weight.shape)
    sums = grad_input_sums(x, codes, window, size) if back else output_sums(x, codes, window)
    return scaled(sums, row_scale, column_scale, bias, dtype)
