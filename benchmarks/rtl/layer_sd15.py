"""Stable Diffusion 1.5's cross-attention `to_k` (77 tokens of 768 to 320, rank 16) on 64 x 64 PEs in RTL.

    python benchmarks/rtl/layer_sd15.py serial shadow      # part of `make rtl-64x64`: a build an overlap

The eight GEMMs of its step (`quantizers/integer_step.py`) as six, those with the same left operand packed.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from intaglio.accelerator.dataflow import compute_cycles
from intaglio.accelerator.hardware import load_hardware
from intaglio.cli.rtl import design_of
from intaglio.quantizers import integer_step as step
from intaglio.rtl.design import GEMM_CYCLES, MODES, OVERLAPS
from intaglio.rtl.program import gemm_program, sums_of
from intaglio.rtl.verify import VerilatedMachine, build

M, K, N, RANK = 77, 768, 320, 16


def gemms() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Left and right operand and the sums that `integer_step` gives, from seeded random tensors."""
    rng = np.random.default_rng(0)

    def quantized(rows: int, columns: int, groups: int) -> step.Codes:
        return step.quantize(rng.normal(size=(rows, columns)).astype(np.float32), 8, groups)

    x, g, a, columns = quantized(M, K, M), quantized(M, N, M), quantized(RANK, K, RANK), quantized(RANK, N, RANK)
    b, w = step.Codes(columns.codes.T, columns.exponent.T), rng.integers(-127, 128, (N, K)).astype(np.int8)
    first = step.forward(x, w, a, b, bits=8, groups=M)
    second = step.backward(g, x, first.h, w, a, b, bits=8, groups=M, seed=7)
    return {
        "X [W A]": (x.codes, np.hstack([w.T, a.codes.T]), np.hstack([first.y, first.h])),
        "q(H) B": (first.h_codes.codes, b.codes.T, first.u),
        "G [W B]": (g.codes, np.hstack([w, b.codes]), np.hstack([second.dx, second.gh])),
        "q(GH) A": (second.gh_codes.codes, a.codes, second.v),
        "G^T q(H)": (g.codes.T, second.h_columns.codes, second.db),
        "q(GH)^T X": (second.gh_columns.codes.T, x.codes, second.da),
    }


def main(overlaps: list[str]) -> int:
    right = True
    for overlap in overlaps or list(OVERLAPS):
        design = replace(design_of(load_hardware("recipes/rtl-64x64.toml")), overlap=overlap)
        with tempfile.TemporaryDirectory() as folder, VerilatedMachine(design, build(design, Path(folder))) as machine:
            for mode in MODES:
                cycles, model, equal = 0, 0, 0
                for left, operand, sums in gemms().values():
                    words, gemm_cycles, _ = machine.run(gemm_program(design, left, operand, mode))
                    equal += np.array_equal(sums_of(words, *sums.shape, design), sums)
                    cycles += gemm_cycles - GEMM_CYCLES
                    shape = (*sums.shape, left.shape[1])
                    sizes = {"rows": design.rows, "cols": design.cols}
                    model += int(compute_cycles(*shape, **sizes, dataflow=mode, overlap=design.overlap))
                print(
                    f"{overlap:<16}{mode:<18} {equal} of 6 equal, {cycles:,} cycles, {model:,} by the model", flush=True
                )
                right = right and equal == 6 and cycles == model
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
