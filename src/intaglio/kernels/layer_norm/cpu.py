"""By the compiled kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.kernels import binding
from intaglio.kernels.dtypes import affine_operands, is_narrow
from intaglio.kernels.layer_norm.op import layer_norm_gradient, layer_norm_operator
from intaglio.kernels.row_quantizer import room_for_codes
from intaglio.kernels.structures import structure

LayerNorm, LayerNormGrad = structure("LayerNorm"), structure("LayerNormGrad")


def forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, with_codes: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, mean, rstd, and the codes and scales of x: empty if not wanted."""
    rows, columns = x.shape
    weight, bias, affine_type = affine_operands(weight, bias)
    y = torch.empty_like(x)
    mean = x.new_empty(rows, dtype=torch.float32)
    rstd = torch.empty_like(mean)
    codes, scale = room_for_codes(x, rows if with_codes else None)
    call = LayerNorm(
        x=x.data_ptr(), type=binding.TYPES[x.dtype], weight=binding.address(weight), bias=binding.address(bias),
        affine_type=affine_type, rows=rows, columns=columns, eps=eps, y=y.data_ptr(), mean=mean.data_ptr(),
        rstd=rstd.data_ptr(), codes=codes.data_ptr() if with_codes else None, scale=scale.data_ptr(),
        threads=torch.get_num_threads(),
    )  # fmt: skip
    binding.call("intaglio_layer_norm", call)
    return y, mean, rstd, codes, scale


def backward(
    grad: Tensor, x: Tensor, scale: Tensor | None, mean: Tensor, rstd: Tensor, weight: Tensor | None
) -> Tensor:
    weight, _, affine_type = affine_operands(weight, None)
    grad_x = torch.empty_like(grad)
    call = LayerNormGrad(
        grad=grad.data_ptr(), x=x.data_ptr(), type=binding.TYPES[grad.dtype], scale=binding.address(scale),
        weight=binding.address(weight), affine_type=affine_type, mean=mean.data_ptr(), rstd=rstd.data_ptr(),
        rows=x.shape[0], columns=x.shape[1], grad_x=grad_x.data_ptr(), threads=torch.get_num_threads(),
    )  # fmt: skip
    binding.call("intaglio_layer_norm_grad", call)
    return grad_x


_SETS = ("avx512bf16", "avx512", "avx2")
layer_norm_operator.native(forward, *_SETS, takes=lambda x, *_: is_narrow(x), condition="float32 or bfloat16")
layer_norm_gradient.native(
    backward, *_SETS, takes=lambda grad, x, scale, mean, *_: is_narrow(grad, mean), condition="float32 or bfloat16"
)
