"""The quantizer whose bits and kind of scale can be chosen. `quantizers/activations.py` is its definition, bit for bit.

`row_quantizer` is the one for 8 bits and float scales: it multiplies by the reciprocal where this one divides.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from intaglio.errors import UserError
from intaglio.kernels import binding
from intaglio.kernels.operators import Operator, watched
from intaglio.quantizers.activations import quantize_columns, quantize_groups
from intaglio.quantizers.integer_step import MIN_EXPONENT, max_code

_pointer, _int64 = ctypes.c_void_p, ctypes.c_int64


class _Codes(ctypes.Structure):
    """`Codes` of `cpu/low_rank.h`."""

    _fields_ = (
        ("x", _pointer), ("x_type", _int64), ("x_stride", _int64), ("rows", _int64), ("columns", _int64),
        ("groups", _int64), ("factor", _pointer), ("divisor", _pointer), ("max_code", _int64),
        ("power_of_two", _int64), ("smallest", ctypes.c_float), ("stochastic", _int64), ("seed", ctypes.c_uint64),
        ("codes", _pointer), ("scale", _pointer), ("threads", _int64),
    )  # fmt: skip


def check_bits(name: str, bits: int) -> None:
    if not 2 <= bits <= 8:
        raise UserError(f"{name}: codes of {bits} bits; expected 2 .. 8")


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
        UserError: a shape that does not fit.
    """
    check_bits("codes_by_group", bits)
    if x_RC.ndim != 2 or groups < 0 or (x_RC.shape[0] % groups if groups else x_RC.shape[0]):
        raise UserError(
            f"codes_by_group: x {tuple(x_RC.shape)} in {groups} groups; expected (rows, columns) in equal groups"
        )
    if factor_C is not None and factor_C.shape != x_RC.shape[1:]:
        raise UserError(
            f"codes_by_group: x {tuple(x_RC.shape)} with factor {tuple(factor_C.shape)}; expected one a column"
        )
    codes, scale = _codes(_stored(x_RC), bits, max(groups, 1), factor_C, None, power_of_two, seed)
    return codes, scale[:groups, None]


def codes_by_column(
    x_RC: Tensor, bits: int, *, power_of_two: bool, divisor_R: Tensor | None = None, seed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`quantize_columns(x / divisor, bits)`, with `divisor` one number a row: codes int8 (R, C), scale float32 (1, C).

    Raises:
        UserError: a shape that does not fit.
    """
    check_bits("codes_by_column", bits)
    if x_RC.ndim != 2 or (divisor_R is not None and divisor_R.shape != x_RC.shape[:1]):
        came = None if divisor_R is None else tuple(divisor_R.shape)
        raise UserError(f"codes_by_column: x {tuple(x_RC.shape)} with divisor {came}; expected one a row")
    codes, scale = _codes(_stored(x_RC), bits, 0, None, divisor_R, power_of_two, seed)
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
    a, a_scale = _run(a_rC, bits, a_rC.shape[0], factor, None, power_of_two, None)
    return a, a_scale, *_run(b_Or, bits, 0, None, divisor_O, power_of_two, None)


def _stored(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.bfloat16) else x.float()


def _run(
    x: Tensor,
    bits: int,
    groups: int,
    factor: Tensor | None,
    divisor: Tensor | None,
    power_of_two: bool,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    kernels = binding.compiled(x, factor, divisor)
    if kernels is None or not binding.reaches("avx512") or not x.numel():
        values = x.float() if factor is None else x.float() * factor
        values = values if divisor is None else values / divisor[:, None]
        if groups:
            codes, scale = quantize_groups(values, bits, groups, power_of_two=power_of_two, seed=seed)
        else:
            codes, scale = quantize_columns(values, bits, power_of_two=power_of_two, seed=seed)
        return codes, scale.flatten()
    x = x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()
    factor = None if factor is None else factor.float().contiguous()
    divisor = None if divisor is None else divisor.float().contiguous()
    rows, columns = x.shape
    codes, scale = x.new_empty(x.shape, dtype=torch.int8), x.new_empty(groups or columns, dtype=torch.float32)
    call = _Codes(
        x=binding.address(x), x_type=binding.TYPES[x.dtype], x_stride=x.stride(0), rows=rows, columns=columns,
        groups=groups, factor=binding.address(factor), divisor=binding.address(divisor), max_code=max_code(bits),
        power_of_two=power_of_two, smallest=2.0**MIN_EXPONENT, stochastic=seed is not None,
        seed=0 if seed is None else int(seed.item()) & 0xFFFFFFFF, codes=binding.address(codes),
        scale=binding.address(scale), threads=torch.get_num_threads(),
    )  # fmt: skip
    kernels.intaglio_codes(ctypes.byref(call))
    return codes, scale


def _fake(x, bits, groups, factor, divisor, power_of_two, seed):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty(groups or x.shape[1], dtype=torch.float32)


_codes = Operator("intaglio::codes", _run, _fake)
