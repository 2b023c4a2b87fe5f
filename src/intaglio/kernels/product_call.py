"""The call of the compiled product, which `weight_product` and `int8_matmul` share."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from intaglio.kernels import binding
from intaglio.kernels.structures import structure

Weight, Window, Product = structure("Weight"), structure("Window"), structure("Product")


def weight_of(
    qdata: Tensor,
    shape: tuple[int, int, int],
    zero_point: Tensor | None = None,
    ratio: Tensor | None = None,
    levels: Tensor | None = None,
    group_size: int | None = None,
) -> Any:
    """The structure of a frozen weight (O, taps, I), uint8 (two codes a byte) or int8, rows of contiguous codes."""
    out, taps, channels = shape
    size = max(1, taps * channels if group_size is None else group_size)
    return Weight(
        codes=qdata.data_ptr(), bits=4 if qdata.dtype == torch.uint8 else 8, row_bytes=qdata.stride(0), out=out,
        taps=taps, in_=channels, zero_point=binding.address(zero_point), ratio=binding.address(ratio),
        levels=binding.address(levels), groups=-(-taps * channels // size), group_size=size,
    )  # fmt: skip


def multiply(
    weight: Any,
    window: Any,
    x: Tensor,
    x_stride: int,
    grad_input: bool,
    out: Tensor,
    row_scale: Tensor | None = None,
    column_scale: Tensor | None = None,
    bias: Tensor | None = None,
) -> None:
    """Call the compiled product. `out` (..., columns) is dense: int32, or float32 or bfloat16 with the scales."""
    columns = out.shape[-1]
    rows = out.numel() // columns if columns else 0
    call = Product(
        x=binding.address(x), x_stride=x_stride, weight=ctypes.addressof(weight), window=ctypes.addressof(window),
        grad_input=grad_input, out_type=binding.TYPES[out.dtype], out=binding.address(out), out_stride=columns,
        row_scale=binding.address(row_scale), rows_per_scale=1 if row_scale is None else max(1, rows // len(row_scale)),
        column_scale=binding.address(column_scale), bias=binding.address(bias), threads=torch.get_num_threads(),
    )  # fmt: skip
    binding.call("intaglio_product", call)
