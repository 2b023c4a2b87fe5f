"""What is fixed when the machine is made: sizes, registers, the wait between folds. Plain Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from intaglio.errors import Problems

Mode = Literal["weight_stationary", "output_stationary"]
Overlap = Literal["serial", "double_buffered", "wavefront", "shadow"]
Edge = Literal["left", "right"]
MODES: tuple[Mode, ...] = ("weight_stationary", "output_stationary")
OVERLAPS: tuple[Overlap, ...] = ("serial", "double_buffered", "wavefront", "shadow")

ADDRESS_BITS = 20
"""Of every address and count in an instruction; the highest bit of an address chooses the half of a buffer."""
HALF = 1 << (ADDRESS_BITS - 1)
"""What is added to an address of the other half."""
EXPONENT_BITS = 12
"""Of a scale's exponent, signed: sums of three exponents of float32 scales fit."""


GEMM_CYCLES = 4
"""What the machine takes for a GEMM beyond the cycles of its folds: to accept it, to decide on its first fold, to read
a word, to write one. Of GEMMs back to back only once."""


@dataclass(frozen=True)
class Design:
    """One machine.

    left_words, right_words, result_words: words of `rows` operands, of `cols` operands and of `cols` sums in each half
    of the three buffers.
    transposers: the operands that a LOAD can turn.
    early: cycles by which each fold starts before its wait is over. Anything but 0 is wrong: for tests of the wait.
    """

    rows: int
    cols: int
    modes: tuple[Mode, ...] = MODES
    overlap: Overlap = "shadow"
    operand_bits: int = 8
    sum_bits: int = 32
    left_words: int = 256
    right_words: int = 256
    result_words: int = 256
    halves: Literal[1, 2] = 2
    transposers: tuple[Edge, ...] = ()
    early: int = 0

    def __post_init__(self) -> None:
        limit = HALF
        problems = [f"{name} is {value}; expected 1 .. 64" for name, value in (("rows", self.rows), ("cols", self.cols))
                    if not 1 <= value <= 64]  # fmt: skip
        problems += [
            f"{name} is {value}; expected 2 .. {limit} words a half"
            for name, value in (
                ("left_words", self.left_words),
                ("right_words", self.right_words),
                ("result_words", self.result_words),
            )
            if not 2 <= value <= limit
        ]
        if not 2 <= self.operand_bits <= 8:
            problems.append(f"operand_bits is {self.operand_bits}; expected 2 .. 8")
        if not 16 <= self.sum_bits <= 32:
            problems.append(f"sum_bits is {self.sum_bits}; expected 16 .. 32")
        if self.overlap not in OVERLAPS:
            problems.append(f"overlap is {self.overlap!r}; the array has {', '.join(OVERLAPS)}")
        if not self.modes or set(self.modes) - set(MODES):
            problems.append(f"modes are {self.modes}; expected one or both of {', '.join(MODES)}")
        if problems:
            raise Problems("no array in RTL", problems)

    @property
    def has_ws(self) -> bool:
        return "weight_stationary" in self.modes

    @property
    def has_os(self) -> bool:
        return "output_stationary" in self.modes

    @property
    def second_register(self) -> bool:
        """Whether a PE loads (WS) or drains (OS) through a register of its own."""
        return self.overlap in ("double_buffered", "shadow")

    @property
    def fixed_wait(self) -> int | None:
        """Cycles from the end of one fold's stream to the start of the next; None for `shadow`, where it depends on
        both lengths. Control travels with the data in every machine: `serial` and `double_buffered` wait longer."""
        waits = {
            "serial": 2 * self.rows + self.cols - 2,
            "wavefront": self.rows - 1,
            "double_buffered": self.rows + self.cols - 2,
        }
        return waits.get(self.overlap)

    def wait(self, t: int) -> int:
        """Cycles from the start of a fold to that of the next, both of `t` cycles."""
        return max(t, self.rows) if self.fixed_wait is None else t + self.fixed_wait

    def fold_cycles(self, shape_MNK: tuple[int, int, int], mode: Mode) -> int:
        """Cycles of a GEMM's folds; the machine takes `GEMM_CYCLES` more."""
        M, N, K = shape_MNK
        on_rows, t = (K, M) if mode == "weight_stationary" else (M, K)
        folds = -(-on_rows // self.rows) * -(-N // self.cols)
        return 2 * self.rows + self.cols + t - 2 + (folds - 1) * self.wait(t)


def input_bits(design: Design) -> int:
    """Width of the input port: a word of either operand or of sums, or an exponent."""
    return max(design.rows * design.operand_bits, design.cols * design.sum_bits)
