"""The quantizer of activations and gradients."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from intaglio.errors import UserError
from intaglio.kernels import binding
from intaglio.kernels.operators import Operator
from intaglio.kernels.row_quantizer.by_torch import round_to_nearest
from intaglio.kernels.row_quantizer.definition import round_rows


def quantize_rows(x_GRC: Tensor, factor_SC: Tensor | None = None, *, seed: int | None = None) -> tuple[Tensor, Tensor]:
    """Round `x * factor` to INT8, symmetric, with one scale a group: `x * factor ~ codes * scale`.

    A group is what shares a scale: one token, (M, 1, C), or one sample of a convolution, (B, H * W, C).

    Args:
        x_GRC: float32 or bfloat16 (groups, rows, columns), of any strides; others are cast to float32.
        factor_SC: float32 (samples, columns), multiplied in first; `groups` is a multiple of `samples`, a sample's
            groups are neighbours. None for 1.
        seed: rounds stochastically, with the lowest 32 bits of it; None rounds to nearest.

    Returns:
        codes int8 (G, R, C), within -127..127; scale float32 (G,), NaN for a group that is not finite.

    Raises:
        UserError: a shape that does not fit.
    """
    if x_GRC.ndim != 3 or (
        factor_SC is not None
        and (
            factor_SC.ndim != 2
            or factor_SC.shape[1] != x_GRC.shape[2]
            or not factor_SC.shape[0]
            or x_GRC.shape[0] % factor_SC.shape[0]
        )
    ):
        came = None if factor_SC is None else tuple(factor_SC.shape)
        raise UserError(
            f"quantize_rows: x {tuple(x_GRC.shape)} with factor {came}; expected (groups, rows, columns) with "
            "(samples, columns), where samples divides groups"
        )
    x = x_GRC if x_GRC.dtype in (torch.float32, torch.bfloat16) else x_GRC.float()
    factor = None if factor_SC is None else factor_SC.to(torch.float32)
    return _quantize_rows(x, factor, seed is not None, (seed or 0) & 0xFFFFFFFF)


def dequantize_rows(codes_GRC: Tensor, scale_G: Tensor) -> Tensor:
    """float32 (G, R, C): codes * scale."""
    return codes_GRC * scale_G[:, None, None]


def _quantize_rows_compute(x: Tensor, factor: Tensor | None, stochastic: bool, seed: int) -> tuple[Tensor, Tensor]:
    kernels = binding.compiled(x, factor)
    if kernels is None:
        return round_rows(x, factor, seed) if stochastic else round_to_nearest(x, factor)
    groups, rows, columns = x.shape
    if columns > 1 and x.stride(2) != 1:
        x = x.contiguous()
    factor = None if factor is None else factor.contiguous()
    codes, scale = x.new_empty(x.shape, dtype=torch.int8), x.new_empty(groups, dtype=torch.float32)
    call = binding.Rows(
        x=binding.address(x), x_type=binding.TYPES[x.dtype], x_stride=x.stride(1), x_group_stride=x.stride(0),
        groups=groups, rows=rows, columns=columns, factor=binding.address(factor),
        samples=1 if factor is None else len(factor), stochastic=stochastic, seed=seed,
        codes=binding.address(codes), scale=binding.address(scale), threads=torch.get_num_threads(),
    )  # fmt: skip
    kernels.intaglio_quantize_rows(ctypes.byref(call))
    return codes, scale


def _quantize_rows_fake(x: Tensor, factor: Tensor | None, stochastic: bool, seed: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty(x.shape[0], dtype=torch.float32)


_quantize_rows = Operator("intaglio::quantize_rows", _quantize_rows_compute, _quantize_rows_fake)
