"""The quantizer of activations and gradients: INT8, one float scale a group of rows."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.kernels.cost import quantize_of
from intaglio.kernels.registry import Op


def quantize_rows(x_GRC: Tensor, factor_SC: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Round `x * factor` to INT8, to nearest, symmetric, with one scale a group: `x * factor ~ codes * scale`.

    A group is what shares a scale: one token, (M, 1, C), or one sample of a convolution, (B, H * W, C).

    Args:
        x_GRC: float32 or bfloat16 (groups, rows, columns), of any strides; others are cast to float32.
        factor_SC: float32 (samples, columns), multiplied in first; `groups` is a multiple of `samples`, a sample's
            groups are neighbours. None for 1.

    Returns:
        codes int8 (G, R, C), within -127..127; scale float32 (G,), NaN for a group that is not finite.

    Raises:
        ValueError: a shape that does not fit.
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
        raise ValueError(
            f"quantize_rows: x {tuple(x_GRC.shape)} with factor {came}; expected (groups, rows, columns) with "
            "(samples, columns), where samples divides groups"
        )
    x = x_GRC if x_GRC.dtype in (torch.float32, torch.bfloat16) else x_GRC.float()
    return op(x, None if factor_SC is None else factor_SC.to(torch.float32))


def dequantize_rows(codes_GRC: Tensor, scale_G: Tensor) -> Tensor:
    """float32 (G, R, C): codes * scale."""
    return codes_GRC * scale_G[:, None, None]


def _fake(x: Tensor, factor: Tensor | None) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty(x.shape[0], dtype=torch.float32)


op = Op("quantize_rows", _fake, cost=quantize_of("x"))
