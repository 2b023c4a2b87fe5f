"""The step of one LoRA layer (`quantizers/integer_step.py`) as a program: eight GEMMs in six, four requantizations.

    X [W^T A^T]  weight-stationary    y and h, packed; h becomes the left operand of u
    q(h) B^T     weight-stationary    u
    G [W B]      weight-stationary    dx and gh, packed; gh becomes the left operand of v
    q(gh) A      weight-stationary    v
    G^T q(h)     output-stationary    db; its left operand lies in memory as G does
    q(gh)^T X    output-stationary    da; the same

No operand is transposed but W in the forward pass, and codes go from the requantizer into the operand buffers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from intaglio.quantizers.integer_step import Codes
from intaglio.rtl.design import Design, Mode
from intaglio.rtl.instructions import ENGINES, TO_LEFT, TO_RESULT, TO_RIGHT
from intaglio.rtl.program import Bytes, Program, left_words, right_words, sums_of

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class LayerProgram:
    """stored: name and shape of each matrix that the program stores, in order; gemms: (M, N, K) and mode."""

    program: Program
    stored: tuple[tuple[str, int, int], ...]
    gemms: tuple[tuple[Shape, Mode], ...]

    def matrices(self, words: Bytes) -> dict[str, NDArray[np.int32]]:
        """What was stored, by name: the sums y h, u, dx gh, v, db, da; `q_` and `e_` are codes and exponents."""
        found, at = {}, 0
        for name, rows, columns in self.stored:
            count = rows * -(-columns // self.program.design.cols)
            found[name] = sums_of(words[at : at + count], rows, columns, self.program.design)
            at += count
        return found


def layer_program(
    design: Design,
    x: Codes,
    g: Codes,
    weight_NK: NDArray[np.int8],
    a: Codes,
    b: Codes,
    *,
    bits: int,
    groups: int,
    seed: int | None = None,
) -> LayerProgram:
    """Forward and backward pass of one layer; arguments as in `integer_step`.

    Raises:
        ValueError: the rank exceeds the array's rows or columns.
    """
    rank = a.codes.shape[0]
    if rank > min(design.rows, design.cols):
        raise ValueError(f"rank {rank} on {design.rows} x {design.cols} PEs: codes lie in one block of rows or columns")
    return _Builder(design, len(x.codes), len(x.codes) // groups, rank, bits).build(x, g, weight_NK, a, b, seed)


class _Builder:
    """Everything has an address of its own, and each instruction waits for all before it."""

    def __init__(self, design: Design, rows: int, group: int, rank: int, bits: int):
        self.design, self.program = design, Program(design)
        self.rows, self.group, self.rank, self.bits = rows, group, rank, bits
        self.stored: list[tuple[str, int, int]] = []
        self.gemms: list[tuple[Shape, Mode]] = []
        self.next = {"left": 0, "right": 0, "result": 0}

    def build(
        self, x: Codes, g: Codes, weight_NK: NDArray[np.int8], a: Codes, b: Codes, seed: int | None
    ) -> LayerProgram:
        x_rows, g_rows = x.exponent[:, 0], g.exponent[:, 0]
        a_rank, b_rank = a.exponent[:, 0], b.exponent[0]
        M, (N, K), r = self.rows, weight_NK.shape, self.rank
        h = self._packed("y h", x.codes, weight_NK.T, a.codes.T)
        q_h = self._requantize("h", h, TO_LEFT, x_rows, a_rank + b_rank, self.group)
        self._gemm("u", (M, N, r), "weight_stationary", q_h, self._load_right(b.codes.T))
        gh = self._packed("dx gh", g.codes, weight_NK, b.codes)
        q_gh = self._requantize("gh", gh, TO_LEFT, g_rows, a_rank + b_rank, self.group)
        self._gemm("v", (M, K, r), "weight_stationary", q_gh, self._load_right(a.codes))
        summed = g_rows + x_rows
        h_columns = self._requantize("h_columns", h, TO_RIGHT, summed, a_rank, 0, None if seed is None else seed + 1)
        g_left = self._load_left(g.codes.T, "output_stationary")
        self._gemm("db", (N, r, M), "output_stationary", g_left, h_columns)
        gh_columns = self._requantize("gh_columns", gh, TO_LEFT, summed, b_rank, 0, None if seed is None else seed + 2)
        self._gemm("da", (r, K, M), "output_stationary", gh_columns, self._load_right(x.codes))
        return LayerProgram(self.program, tuple(self.stored), tuple(self.gemms))

    def _room(self, buffer: str, words: int) -> int:
        """The first address of so many words."""
        address, size = self.next[buffer], getattr(self.design, f"{buffer}_words")
        self.next[buffer] += words
        if self.next[buffer] > size:
            raise ValueError(f"the layer needs more than the {size} words of the {buffer} buffer's half")
        return address

    def _load_left(self, left_MK: NDArray[np.int8], mode: Mode) -> int:
        address = self._room("left", len(left_words(left_MK, mode, self.design)))
        self.program.load_left(left_MK, mode, address, after=ENGINES)
        return address

    def _load_right(self, right_KN: NDArray[np.int8]) -> int:
        address = self._room("right", len(right_words(right_KN, self.design)))
        self.program.load_right(right_KN, address, after=ENGINES)
        return address

    def _packed(self, name: str, left: NDArray[np.int8], right: NDArray[np.int8], second: NDArray[np.int8]) -> int:
        """`left [right second]`, the second from an address of its own; the address of its sums."""
        padded = -(-right.shape[1] // self.design.cols) * self.design.cols
        shape = len(left), padded + self.rank, left.shape[1]
        addresses = self._load_left(left, "weight_stationary"), self._load_right(right)
        split = padded, self._load_right(second)
        result = self._gemm(name, shape, "weight_stationary", *addresses, packed=split)
        return result + padded // self.design.cols * len(left)

    def _gemm(
        self, name: str, shape: Shape, mode: Mode, left: int, right: int, packed: tuple[int, int] | None = None
    ) -> int:
        M, N, _ = shape
        words = M * -(-N // self.design.cols)
        address = self._room("result", words)
        self.program.gemm(shape, mode, left=left, right=right, result=address, packed=packed, after=ENGINES)
        self._store(name, address, M, N)
        self.gemms.append((shape, mode))
        return address

    def _requantize(
        self,
        name: str,
        source: int,
        target: int,
        rows: NDArray[np.int32],
        columns: NDArray[np.int32],
        group: int,
        seed: int | None = None,
    ) -> int:
        """Codes of the sums at `source` in the target buffer, at the address returned; stored, with exponents, too."""
        M, r = self.rows, self.rank
        groups = M // group if group else 1
        address = self._room("left" if target == TO_LEFT else "right", M)
        shown, exponents = self._room("result", M), self._room("result", groups)
        self.program.load_exponents(rows, columns, after=ENGINES)
        for to, at in ((target, address), (TO_RESULT, shown)):
            self.program.requant(
                M, r, source=source, target=to, address=at, exponents=exponents, bits=self.bits, group=group, seed=seed,
                after=ENGINES,
            )  # fmt: skip
        self._store(f"q_{name}", shown, M, r)
        self._store(f"e_{name}", exponents, groups, r)
        return address

    def _store(self, name: str, address: int, rows: int, columns: int) -> None:
        self.program.store(address, rows * -(-columns // self.design.cols), after=ENGINES)
        self.stored.append((name, rows, columns))
