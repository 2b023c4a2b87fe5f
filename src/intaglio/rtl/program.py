"""Programs for the machine, made on the host in NumPy: how operands lie in words, and what runs on them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from intaglio.rtl.design import HALF, Design, Mode
from intaglio.rtl.instructions import COLUMN_EXPONENTS, LEFT, RIGHT, ROW_EXPONENTS, encode

Int = NDArray[np.integer]

GEMM_CYCLES = 4
"""What the machine takes for a GEMM beyond the cycles of its folds: to accept it, to decide on its first fold, to read
a word, to write one. Of GEMMs back to back only once."""


@dataclass
class Program:
    """Instructions, the words that they load, and how many they store."""

    design: Design
    instructions: list[int] = field(default_factory=list)
    beats: list[int] = field(default_factory=list)
    stored: int = 0

    def load(self, target: int, address: int, words: Iterable[int], after: tuple[str, ...] = ()) -> None:
        words = list(words)
        self.beats += words
        self.instructions.append(encode("LOAD", after=after, target=target, address=address, count=len(words)))

    def load_left(self, left_MK: Int, mode: Mode, address: int = 0, after: tuple[str, ...] = ()) -> None:
        self.load(LEFT, address, left_words(left_MK, mode, self.design), after)

    def load_right(self, right_KN: Int, address: int = 0, after: tuple[str, ...] = ()) -> None:
        self.load(RIGHT, address, right_words(right_KN, self.design), after)

    def load_exponents(self, rows: Int, columns: Int, after: tuple[str, ...] = ()) -> None:
        """Exponents (M,) and (N,) of the next REQUANT."""
        padded = np.zeros(self.design.cols, dtype=np.int64)
        padded[: len(columns)] = columns
        self.load(ROW_EXPONENTS, 0, (int(v) & 0xFFFF for v in rows), after)
        self.load(COLUMN_EXPONENTS, 0, (int(v) & 0xFFFF for v in padded))

    def gemm(
        self,
        shape_MNK: tuple[int, int, int],
        mode: Mode,
        *,
        left: int = 0,
        right: int = 0,
        result: int = 0,
        packed: tuple[int, int] | None = None,
        accumulate: bool = False,
        after: tuple[str, ...] = (),
    ) -> None:
        """packed: from this column on, a multiple of the array's, the right operand lies at that address."""
        M, N, K = shape_MNK
        ws = mode == "weight_stationary"
        row_blocks, col_blocks = -(-(K if ws else M) // self.design.rows), -(-N // self.design.cols)
        split, right_split = (col_blocks, 0) if packed is None else (packed[0] // self.design.cols, packed[1])
        self.instructions.append(
            encode(
                "GEMM", after=after, os=int(not ws), accumulate=int(accumulate), m=M, k=K, row_blocks=row_blocks,
                col_blocks=col_blocks, left=left, right=right, split=split, right_split=right_split, result=result,
            )
        )  # fmt: skip

    def requant(
        self, rows: int, columns: int, *, source: int, target: int, address: int, exponents: int, bits: int,
        group: int, seed: int | None = None, after: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        """Codes of (rows, columns) sums; group: rows that share a scale, 0 for a scale a column."""
        number = 0 if seed is None else seed * 0x9E3779B9 & 0xFFFFFFFF
        self.instructions.append(
            encode(
                "REQUANT", after=after, source=source, rows=rows, group=group, target=target, address=address,
                exponents=exponents, bits=bits, dither=int(seed is not None), hash=number, hash_step=columns,
            )
        )  # fmt: skip

    def store(self, address: int, count: int, after: tuple[str, ...] = ("GEMM",)) -> None:
        self.instructions.append(encode("STORE", after=after, address=address, count=count))
        self.stored += count


def gemm_program(design: Design, left_MK: Int, right_KN: Int, mode: Mode, program: Program | None = None) -> Program:
    """Load both operands, multiply, store the sums. Raises `ValueError` for what one half of a buffer cannot hold."""
    (M, K), N = left_MK.shape, right_KN.shape[1]
    program = program or Program(design)
    blocks = -(-N // design.cols)
    streamed, on_rows = (M, K) if mode == "weight_stationary" else (K, M)
    needs = {
        "left": (-(-on_rows // design.rows) * streamed, design.left_words),
        "right": (blocks * K, design.right_words),
        "result": (blocks * M, design.result_words),
    }
    over = [f"{name} {need:,} words of {has:,}" for name, (need, has) in needs.items() if need > has]
    if over:
        raise ValueError(f"GEMM {M} x {N} x {K} does not fit: {', '.join(over)}")
    program.load_left(left_MK, mode)
    program.load_right(right_KN)
    program.gemm((M, N, K), mode, after=("LOAD", "STORE"))
    program.store(0, blocks * M)
    return program


def left_words(left_MK: Int, mode: Mode, design: Design) -> list[int]:
    """Blocks of what lies on the rows, each a word an element of what streams."""
    streamed = left_MK if mode == "weight_stationary" else left_MK.T
    return _words(streamed, design.rows, design.operand_bits)


def right_words(right_KN: Int, design: Design) -> list[int]:
    """Blocks of columns, each a word a row."""
    return _words(right_KN, design.cols, design.operand_bits)


def _words(matrix: Int, lanes: int, bits: int) -> list[int]:
    length, width = matrix.shape
    blocks = -(-width // lanes)
    padded = np.zeros((length, blocks * lanes), dtype=np.int64)
    padded[:, :width] = matrix
    rows = (padded & ((1 << bits) - 1)).reshape(length, blocks, lanes).swapaxes(0, 1).reshape(-1, lanes)
    if bits == 8:
        raw = rows.astype(np.uint8)
        return [int.from_bytes(row.tobytes(), "little") for row in raw]
    return [sum(int(v) << (bits * i) for i, v in enumerate(row)) for row in rows]


def sums_of(words: Iterable[int], rows: int, columns: int, design: Design) -> NDArray[np.int32]:
    """Words of the result buffer, blocks of `rows`, as a matrix."""
    bits, cols = design.sum_bits, design.cols
    half, mask = 1 << (bits - 1), (1 << bits) - 1
    lanes = [[((word >> (bits * j) & mask) ^ half) - half for j in range(cols)] for word in words]
    blocks = np.array(lanes, dtype=np.int32).reshape(-1, rows, cols)
    return blocks.swapaxes(0, 1).reshape(rows, -1)[:, :columns]


def other_half(address: int) -> int:
    return address ^ HALF
