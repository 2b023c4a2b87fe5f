"""What the product with a frozen weight is, in torch: taps in a loop over exact matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.kernels.int8_matmul.product import by_torch
from intaglio.kernels.weight_product.window import Window


def output_sums(x_BHWI: Tensor, codes_OTI: Tensor, window: Window) -> Tensor:
    """int8 (B, H, W, I) -> int32 (B, H', W', O): sums over taps and input channels; outside of the image is 0."""
    batch, height, width, _ = x_BHWI.shape
    out_height, out_width = window.output_size((height, width))
    total = torch.zeros(batch * out_height * out_width, codes_OTI.shape[0], dtype=torch.int32, device=x_BHWI.device)
    top, left = window.padding
    padded = torch.nn.functional.pad(x_BHWI, (0, 0, left, left, top, top))
    for tap in range(window.taps):
        total += by_torch(under_tap(padded, tap, window, (out_height, out_width)).flatten(0, 2), codes_OTI[:, tap].T)
    return total.view(batch, out_height, out_width, -1)


def grad_input_sums(grad_BHWO: Tensor, codes_OTI: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """int8 (B, H', W', O) -> int32 (B, H, W, I): the transpose of `output_sums`."""
    batch, out_height, out_width, _ = grad_BHWO.shape
    top, left = window.padding
    total = torch.zeros(
        batch, size[0] + 2 * top, size[1] + 2 * left, codes_OTI.shape[2], dtype=torch.int32, device=grad_BHWO.device
    )
    for tap in range(window.taps):
        part = by_torch(grad_BHWO.flatten(0, 2), codes_OTI[:, tap])
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
