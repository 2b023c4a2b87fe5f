"""A training step whose INT8 GEMMs and requantizations are the Verilated machine's.

Under `OnArray` torch's integer operators do what their definitions say (`kernels/*/definition.py`), with the sums and
codes that the machine gives; everything in float stays torch's. Each GEMM runs as the accelerator model mapped it, and
is compared with NumPy's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from intaglio.kernels.weight_product.definition import scaled
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from intaglio.kernels.weight_product.weight import IntegerWeight
from intaglio.quantizers import integer_step
from intaglio.rtl.design import GEMM_CYCLES, Edge, Mode
from intaglio.rtl.instructions import TO_RESULT
from intaglio.rtl.program import Program, gemms_program, sums_of
from intaglio.rtl.verify import VerilatedMachine


@dataclass(frozen=True)
class Row:
    """A GEMM as `intaglio simulate --trace` prints it."""

    M: int
    N: int
    K: int
    dataflow: Mode
    compute_cycles: int
    turned: tuple[Edge, ...]
    """Operands that do not lie as the dataflow wants them, and pass a transposer."""


@dataclass
class Tally:
    """What was compared."""

    gemms: int = 0
    equal_sums: int = 0
    equal_cycles: int = 0
    requantizations: int = 0
    equal_codes: int = 0
    array_cycles: int = 0
    model_cycles: int = 0
    machine_cycles: int = 0
    turned: int = 0


class OnArray(TorchDispatchMode):
    def __init__(self, machine: VerilatedMachine, rows: list[Row]):
        super().__init__()
        self.machine, self.rows, self.tally = machine, rows, Tally()
        self._handlers: dict[str, Callable[..., Any]] = {
            "intaglio::weight_product": self._weight_product,
            "intaglio::low_rank_update": self._low_rank_update,
            "intaglio::rank_product": lambda x, first: self._gemm(x, first.T),
            "intaglio::token_gradient": self._token_gradient,
        }

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        handler = self._handlers.get(name)
        if handler is None:
            if name.startswith("intaglio::") and ("matmul" in name or "attention" in name):
                raise NotImplementedError(f"{name} is a GEMM that does not run on the array")
            return func(*args, **(kwargs or {}))
        return handler(*args, **(kwargs or {}))

    def _gemm(self, left: Tensor, right: Tensor) -> Tensor:
        """int8 (M, K) @ int8 (K, N) -> int32, by the machine."""
        return self._gemms([(left, right)])[0]

    def _gemms(self, pairs: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """GEMMs back to back that make one product of the trace: the phases of a stride, whose reductions add up."""
        gemms = [(left.contiguous().numpy(), right.contiguous().numpy()) for left, right in pairs]
        came = {len(x) for x, _ in gemms}, {w.shape[1] for _, w in gemms}, sum(len(w) for _, w in gemms)
        tally, row = self.tally, self.rows[self.tally.gemms]
        if came != ({row.M}, {row.N}, row.K):
            raise AssertionError(f"product {tally.gemms} is {came}; the trace has {row}")
        program, places = gemms_program(self.machine.design, gemms, row.dataflow, row.turned)
        words, gemm_cycles, cycles = self.machine.run(program)
        sums = [
            sums_of(words[place], len(x), w.shape[1], self.machine.design)
            for (x, w), place in zip(gemms, places, strict=True)
        ]
        filling = self.machine.design.rows if row.turned else 0  # what its LOAD takes beyond its words
        compute_cycles = gemm_cycles - GEMM_CYCLES + filling
        tally.gemms += 1
        tally.turned += len(row.turned)
        tally.equal_sums += all(
            np.array_equal(got, x.astype(np.int32) @ w.astype(np.int32))
            for got, (x, w) in zip(sums, gemms, strict=True)
        )
        tally.equal_cycles += compute_cycles == row.compute_cycles
        tally.array_cycles += compute_cycles
        tally.model_cycles += row.compute_cycles
        tally.machine_cycles += cycles
        return [torch.from_numpy(found) for found in sums]

    def _requantize(
        self, sums: Tensor, rows: Tensor, columns: Tensor, bits: int, groups: int | None, seed: int | None
    ) -> tuple[Tensor, Tensor]:
        """Codes of `sums * rows * columns`, whose scales are powers of two, and their scales, by the machine."""
        values, design = sums.contiguous().numpy(), self.machine.design
        (M, r), group = values.shape, 0 if groups is None else len(sums) // groups
        row_exponents, column_exponents = exponents(rows), exponents(columns)
        shared = 1 if groups is None else groups
        program = Program(design)
        program.load_sums(values, 0)
        program.load_exponents(row_exponents, column_exponents)
        program.requant(
            M, r, source=0, target=TO_RESULT, address=M, exponents=2 * M, bits=bits, group=group, seed=seed,
            after=("LOAD",),
        )  # fmt: skip
        program.store(M, M + shared, after=("REQUANT",))
        words, _, cycles = self.machine.run(program)
        codes, found = sums_of(words[:M], M, r, design), sums_of(words[M:], shared, r, design)
        expected = integer_step.requantize(values, row_exponents[:, None] + column_exponents, bits, groups, seed)
        scales = found if groups is None else found[:, :1]
        wanted = expected.exponent if groups is None else expected.exponent[::group]
        same = np.array_equal(codes, expected.codes) and np.array_equal(scales, wanted)
        self.tally.requantizations += 1
        self.tally.equal_codes += bool(same)
        self.tally.machine_cycles += cycles
        return torch.from_numpy(codes.astype(np.int8)), torch.from_numpy(np.ldexp(1.0, scales))

    def _weight_product(
        self, x: Tensor, qdata: Tensor, zero_point: Any, ratio: Any, levels: Any, shape: list[int], group_size: int,
        geometry: list[int], back: bool, row_scale: Tensor, column_scale: Tensor, bias: Tensor | None, dtype: Any,
    ) -> Tensor:  # fmt: skip
        out, taps, channels = shape
        weight = IntegerWeight(qdata, (out, taps, channels), column_scale, zero_point, ratio, levels, group_size)
        codes = weight.codes().view(out, taps, channels)
        forward = codes.view(out, -1).T
        sums = self._grad_input(x, codes, geometry) if back else self._gemm(patches(x, geometry), forward)
        sums = sums.view(x.shape[0], geometry[8], geometry[9], -1)
        return scaled(sums, row_scale, column_scale, bias, dtype)

    def _grad_input(self, grad: Tensor, codes_OTI: Tensor, geometry: list[int]) -> Tensor:
        """int32 (B, H, W, I). A stride cuts the pixels into phases, each with taps of its own."""
        (sh, sw), under = geometry[2:4], gathered(grad, geometry)
        phases = [(y, x) for y in range(sh) for x in range(sw)]
        pairs = []
        for y, x in phases:
            taps = meeting(y, x, geometry)
            left = under[:, y::sh, x::sw, taps].flatten(3).flatten(0, 2)
            pairs.append((left, codes_OTI[:, taps].transpose(0, 1).flatten(0, 1)))
        sums = torch.zeros(*under.shape[:3], codes_OTI.shape[2], dtype=torch.int32)
        for (y, x), found in zip(phases, self._gemms(pairs), strict=True):
            part = sums[:, y::sh, x::sw]
            part.copy_(found.view(part.shape))
        return sums

    def _low_rank_update(
        self, out: Tensor, x: Tensor, first: Tensor, second: Tensor, row_scale: Tensor, first_scale: Tensor,
        second_scale: Tensor, column_scale: Tensor | None, bits: int, power_of_two: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        assert power_of_two
        h = self._gemm(x, first.T)
        rows = len(x) // len(row_scale)
        codes, scale = self._requantize(
            h, row_scale.repeat_interleave(rows), first_scale * second_scale, bits, len(row_scale), None
        )
        value = self._gemm(codes, second.T).float() * scale.float().repeat_interleave(rows, 0)
        out.copy_(out.float() + (value if column_scale is None else value * column_scale))
        return h, codes

    def _token_gradient(
        self, h: Tensor, left_scale: Tensor, right_scale: Tensor, rank_scale: Tensor, right: Tensor,
        divisor: Tensor | None, multiplier: float, bits: int, power_of_two: bool, seed: Tensor | None, transposed: bool,
    ) -> Tensor:  # fmt: skip
        assert power_of_two
        rows = (left_scale.double() * right_scale.double()).repeat_interleave(len(h) // len(left_scale))
        codes, scale = self._requantize(h, rows, rank_scale, bits, None, None if seed is None else int(seed))
        # The trace's order of operands: hidden before the gradient of the output, the input before that of hidden.
        sums = self._gemm(codes.T, right) if transposed else self._gemm(right.T, codes).T
        value = sums.double() * scale.T
        if divisor is not None:
            value = value / divisor.double()
        value = (value * multiplier).float()
        return value.T.contiguous() if transposed else value.contiguous()


def exponents(scale: Tensor) -> np.ndarray:
    """Of powers of two; raises `AssertionError` for another number."""
    mantissa, exponent = np.frexp(scale.double().numpy())
    assert (mantissa == 0.5).all(), "a scale is no power of two"
    return exponent.astype(np.int64) - 1


def patches(x_BHWC: Tensor, geometry: list[int]) -> Tensor:
    """(pixels of the output, taps * channels): what a convolution multiplies."""
    (kh, kw), (sh, sw), (top, left), (dh, dw), (height, width) = (geometry[i : i + 2] for i in range(0, 10, 2))
    padded = torch.nn.functional.pad(x_BHWC, (0, 0, left, left, top, top))
    taps = [
        padded[:, i * dh : i * dh + (height - 1) * sh + 1 : sh, j * dw : j * dw + (width - 1) * sw + 1 : sw]
        for i in range(kh)
        for j in range(kw)
    ]
    return torch.stack(taps, 3).flatten(3).flatten(0, 2)


def gathered(grad_BHWO: Tensor, geometry: list[int]) -> Tensor:
    """(B, H, W, taps, O) of the input's pixels: the gradient under each tap, zero where a stride leaves none."""
    (kh, kw), (sh, sw), (top, left), (dh, dw), (height, width) = (geometry[i : i + 2] for i in range(0, 10, 2))
    batch, out_height, out_width, channels = grad_BHWO.shape
    full = grad_BHWO.new_zeros(batch, height + 2 * top, width + 2 * left, kh * kw, channels)
    for tap in range(kh * kw):
        y, x = tap // kw * dh, tap % kw * dw
        full[:, y : y + (out_height - 1) * sh + 1 : sh, x : x + (out_width - 1) * sw + 1 : sw, tap] = grad_BHWO
    return full[:, top : top + height, left : left + width]


def meeting(y: int, x: int, geometry: list[int]) -> list[int]:
    """The taps that pixels (y, x) + multiples of the stride meet."""
    (kh, kw), (sh, sw), (top, left), (dh, dw), _ = (geometry[i : i + 2] for i in range(0, 10, 2))
    return [
        i * kw + j
        for i in range(kh)
        for j in range(kw)
        if (y + top - i * dh) % sh == 0 and (x + left - j * dw) % sw == 0
    ]
