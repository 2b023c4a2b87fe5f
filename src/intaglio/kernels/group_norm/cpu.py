"""By the compiled kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.kernels import binding
from intaglio.kernels.dtypes import affine_operands, is_narrow
from intaglio.kernels.group_norm.op import group_norm_gradient, group_norm_operator
from intaglio.kernels.row_quantizer import room_for_codes
from intaglio.kernels.structures import structure

GroupNorm, GroupNormGrad = structure("GroupNorm"), structure("GroupNormGrad")


def forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float, silu: bool, with_codes: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, mean, rstd, and the codes and scales of x by pixel: empty if not wanted."""
    samples, rows, channels = x.shape
    weight, bias, affine_type = affine_operands(weight, bias)
    y = torch.empty_like(x)
    mean = x.new_empty(samples, groups, dtype=torch.float32)
    rstd = torch.empty_like(mean)
    codes, scale = room_for_codes(x, samples * rows if with_codes else None)
    call = GroupNorm(
        x=x.data_ptr(), type=binding.TYPES[x.dtype], weight=binding.address(weight), bias=binding.address(bias),
        affine_type=affine_type, samples=samples if rows else 0, rows=rows, channels=channels, groups=groups, eps=eps,
        silu=silu, y=y.data_ptr(), mean=mean.data_ptr(), rstd=rstd.data_ptr(),
        codes=codes.data_ptr() if with_codes else None, scale=scale.data_ptr(), threads=torch.get_num_threads(),
    )  # fmt: skip
    binding.call("intaglio_group_norm", call)
    return y, mean, rstd, codes, scale


def backward(
    grad: Tensor,
    x: Tensor,
    scale: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    silu: bool,
    of_affine: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of x, weight and bias; the latter two are empty if not wanted."""
    samples, rows, channels = x.shape
    columns = channels if of_affine else 0
    weight, bias, affine_type = affine_operands(weight, bias)
    grad_x = torch.empty_like(grad)
    grad_weight = mean.new_zeros(columns)
    grad_bias = torch.zeros_like(grad_weight)
    call = GroupNormGrad(
        grad=grad.data_ptr(), x=x.data_ptr(), type=binding.TYPES[grad.dtype], scale=binding.address(scale),
        weight=binding.address(weight), bias=binding.address(bias), affine_type=affine_type, mean=mean.data_ptr(),
        rstd=rstd.data_ptr(), samples=samples if rows else 0, rows=rows, channels=channels, groups=mean.shape[1],
        silu=silu, grad_x=grad_x.data_ptr(), grad_weight=grad_weight.data_ptr() if of_affine else None,
        grad_bias=grad_bias.data_ptr(), threads=torch.get_num_threads(),
    )  # fmt: skip
    binding.call("intaglio_group_norm_grad", call)
    return grad_x, grad_weight, grad_bias


_SETS = ("avx512bf16", "avx512", "avx2")
group_norm_operator.native(forward, *_SETS, takes=lambda x, *_: is_narrow(x), condition="float32 or bfloat16")
group_norm_gradient.native(
    backward, *_SETS, takes=lambda grad, x, scale, mean, *_: is_narrow(grad, mean), condition="float32 or bfloat16"
)
