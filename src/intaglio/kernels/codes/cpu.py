"""By the compiled kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.kernels import binding
from intaglio.kernels.codes.op import op
from intaglio.kernels.structures import structure
from intaglio.quantizers.integer_step import MIN_EXPONENT, max_code

Codes = structure("Codes")


def _compiled(
    x: Tensor,
    bits: int,
    groups: int,
    factor: Tensor | None,
    divisor: Tensor | None,
    power_of_two: bool,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    x = x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()
    factor = None if factor is None else factor.float().contiguous()
    divisor = None if divisor is None else divisor.float().contiguous()
    rows, columns = x.shape
    codes, scale = x.new_empty(x.shape, dtype=torch.int8), x.new_empty(groups or columns, dtype=torch.float32)
    call = Codes(
        x=x.data_ptr(), x_type=binding.TYPES[x.dtype], x_stride=x.stride(0), rows=rows, columns=columns,
        groups=groups, factor=binding.address(factor), divisor=binding.address(divisor), max_code=max_code(bits),
        power_of_two=power_of_two, smallest=2.0**MIN_EXPONENT, stochastic=seed is not None,
        seed=0 if seed is None else int(seed.item()) & 0xFFFFFFFF, codes=codes.data_ptr(), scale=scale.data_ptr(),
        threads=torch.get_num_threads(),
    )  # fmt: skip
    binding.call("intaglio_codes", call)
    return codes, scale


op.native(_compiled, "avx512", takes=lambda x, *_: x.numel() > 0, condition="not empty")
