"""The quantizer whose bits and kind of scale can be chosen.

`row_quantizer` is the one for 8 bits and float scales: it multiplies by the reciprocal where this one divides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.kernels.cost import quantize_of
from intaglio.kernels.operators import watched
from intaglio.kernels.registry import Op


def check_bits(name: str, bits: int) -> None:
    if not 2 <= bits <= 8:
        raise ValueError(f"{name}: codes of {bits} bits; expected 2 .. 8")


def codes_by_group(
    x_RC: Tensor,
    bits: int,
    groups: int,
    *,
    power_of_two: bool,
    factor_C: Tensor | None = None,
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`quantize_groups(x * factor, bits, groups)`.

    Args:
        x_RC: float32 or bfloat16; others are cast to float32.
        bits: 2 .. 8.
        groups: of equally many neighbouring rows that share a scale.
        factor_C: float32, multiplied in first; None for 1.
        seed: int64 scalar of the stochastic rounding; None rounds half to even.

    Returns:
        codes int8 (R, C); scale float32 (groups, 1), not finite for a group that is not.

    Raises:
        ValueError: a shape that does not fit.
    """
    check_bits("codes_by_group", bits)
    if x_RC.ndim != 2 or groups < 0 or (x_RC.shape[0] % groups if groups else x_RC.shape[0]):
        raise ValueError(
            f"codes_by_group: x {tuple(x_RC.shape)} in {groups} groups; expected (rows, columns) in equal groups"
        )
    if factor_C is not None and factor_C.shape != x_RC.shape[1:]:
        raise ValueError(
            f"codes_by_group: x {tuple(x_RC.shape)} with factor {tuple(factor_C.shape)}; expected one a column"
        )
    codes, scale = op(_stored(x_RC), bits, max(groups, 1), factor_C, None, power_of_two, seed)
    return codes, scale[:groups, None]


def codes_by_column(
    x_RC: Tensor, bits: int, *, power_of_two: bool, divisor_R: Tensor | None = None, seed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`quantize_columns(x / divisor, bits)`, with `divisor` one number a row: codes int8 (R, C), scale float32 (1, C).

    Raises:
        ValueError: a shape that does not fit.
    """
    check_bits("codes_by_column", bits)
    if x_RC.ndim != 2 or (divisor_R is not None and divisor_R.shape != x_RC.shape[:1]):
        came = None if divisor_R is None else tuple(divisor_R.shape)
        raise ValueError(f"codes_by_column: x {tuple(x_RC.shape)} with divisor {came}; expected one a row")
    codes, scale = op(_stored(x_RC), bits, 0, None, divisor_R, power_of_two, seed)
    return codes, scale[None]


def pair_codes(
    a_rC: Tensor, b_Or: Tensor, bits: int, *, power_of_two: bool, scaling: float, divisor_O: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes of `a * scaling` by row and of `b / divisor` by column, each with a scale a rank, float32 (r,).

    A call of its own, because every layer makes it in every step and calls take longer than this work.
    """
    factor = None if scaling == 1 else a_rC.new_full((a_rC.shape[1],), scaling)
    if watched():
        a, a_scale = codes_by_group(a_rC, bits, a_rC.shape[0], power_of_two=power_of_two, factor_C=factor)
        b, b_scale = codes_by_column(b_Or, bits, power_of_two=power_of_two, divisor_R=divisor_O)
        return a, a_scale[:, 0], b, b_scale[0]
    a, a_scale = op.run(a_rC, bits, a_rC.shape[0], factor, None, power_of_two, None)
    return a, a_scale, *op.run(b_Or, bits, 0, None, divisor_O, power_of_two, None)


def _stored(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.bfloat16) else x.float()


def _fake(
    x: Tensor,
    bits: int,
    groups: int,
    factor: Tensor | None,
    divisor: Tensor | None,
    power_of_two: bool,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty(groups or x.shape[1], dtype=torch.float32)


op = Op("codes", _fake, cost=quantize_of("x"), counts_constants=True)
"""`groups` = 0: a scale a column."""
