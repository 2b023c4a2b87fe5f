"""By the compiled kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.kernels import binding
from intaglio.kernels.dtypes import is_narrow
from intaglio.kernels.gated.op import FUNCTIONS, gated_gradient, gated_operator
from intaglio.kernels.row_quantizer import room_for_codes
from intaglio.kernels.structures import structure

Gated, GatedGrad = structure("Gated"), structure("GatedGrad")


def forward(x: Tensor, function: str, gated: bool, with_codes: bool) -> tuple[Tensor, Tensor, Tensor]:
    """y, and the codes of x with a scale for each half of a row: empty if not wanted."""
    rows, columns = x.shape[0], x.shape[1] // (1 + gated)
    y = x.new_empty(rows, columns)
    codes, scale = room_for_codes(x, rows * (1 + gated) if with_codes else None)
    call = Gated(
        x=x.data_ptr(), type=binding.TYPES[x.dtype], rows=rows, columns=columns, function=FUNCTIONS.index(function),
        gated=gated, y=y.data_ptr(), codes=codes.data_ptr() if with_codes else None, scale=scale.data_ptr(),
        threads=torch.get_num_threads(),
    )  # fmt: skip
    binding.call("intaglio_gated", call)
    return y, codes, scale


def backward(grad: Tensor, x: Tensor, scale: Tensor | None, function: str, gated: bool) -> Tensor:
    """`x` (M, C), gated (M, 2 C), whose codes have a scale for each half of a row."""
    rows, columns = grad.shape
    grad_x = grad.new_empty(rows, columns * (1 + gated))
    call = GatedGrad(
        grad=grad.data_ptr(), x=x.data_ptr(), type=binding.TYPES[grad.dtype], scale=binding.address(scale),
        rows=rows, columns=columns, function=FUNCTIONS.index(function), gated=gated, grad_x=grad_x.data_ptr(),
        threads=torch.get_num_threads(),
    )  # fmt: skip
    binding.call("intaglio_gated_grad", call)
    return grad_x


_SETS = ("avx512bf16", "avx512", "avx2")
gated_operator.native(forward, *_SETS, takes=lambda x, *_: is_narrow(x), condition="float32 or bfloat16")
gated_gradient.native(backward, *_SETS, takes=lambda grad, *_: is_narrow(grad), condition="float32 or bfloat16")
