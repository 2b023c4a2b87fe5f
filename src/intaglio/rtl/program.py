"""Programs for the machine, made on the host in NumPy: how operands lie in words, and what runs on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from intaglio.rtl.design import Design, Edge, Mode, input_bits
from intaglio.rtl.instructions import COLUMN_EXPONENTS, LEFT, RESULT, RIGHT, ROW_EXPONENTS, encode

Int = NDArray[np.integer]
Bytes = NDArray[np.uint8]
"""(words, bytes of a word), little-endian."""


@dataclass
class Program:
    """Instructions, the words that they load, and how many they store."""

    design: Design
    instructions: list[int] = field(default_factory=list)
    loaded: list[Bytes] = field(default_factory=list)
    stored: int = 0

    def beats(self) -> Bytes:
        """(beats, bytes of the input port), little-endian: all that the program loads, in order."""
        width = -(-input_bits(self.design) // 8)
        padded = [np.pad(words, ((0, 0), (0, width - words.shape[1]))) for words in self.loaded]
        return np.concatenate(padded) if padded else np.zeros((0, width), dtype=np.uint8)

    def load(self, target: int, address: int, words: Bytes, after: tuple[str, ...] = (), *, turn: bool = False) -> None:
        self.loaded.append(words)
        self.instructions.append(
            encode("LOAD", after=after, target=target, turn=int(turn), address=address, count=len(words))
        )

    def load_left(self, left_MK: Int, mode: Mode, address: int = 0, after: tuple[str, ...] = ()) -> None:
        self.load(LEFT, address, left_words(left_MK, mode, self.design), after)

    def load_right(self, right_KN: Int, address: int = 0, after: tuple[str, ...] = ()) -> None:
        self.load(RIGHT, address, right_words(right_KN, self.design), after)

    def load_turned(self, target: int, rows_of_words: Int, address: int = 0, after: tuple[str, ...] = ()) -> None:
        """The operand whose words are the columns of this matrix, from its rows as they lie: whole blocks, so that up
        to a block less one of the words behind the operand are overwritten."""
        lanes = self.design.rows if target == LEFT else self.design.cols
        if ("left" if target == LEFT else "right") not in self.design.transposers:
            raise ValueError("this machine has no transposer on that edge")
        height, width = rows_of_words.shape
        padded = np.pad(rows_of_words, ((0, -height % lanes), (0, -width % lanes)))
        for block in range(0, len(padded), lanes):
            tiles = padded[block : block + lanes].reshape(lanes, -1, lanes).swapaxes(0, 1).reshape(-1, lanes)
            words = _words(tiles, lanes, self.design.operand_bits)
            self.load(target, address + block // lanes * width, words, after, turn=True)

    def load_sums(self, sums_MN: Int, address: int = 0, after: tuple[str, ...] = ()) -> None:
        self.load(RESULT, address, result_words(sums_MN, self.design), after)

    def load_exponents(self, rows: Int, columns: Int, after: tuple[str, ...] = ()) -> None:
        """Exponents (M,) and (N,) of the next REQUANT."""
        padded = np.zeros(self.design.cols, dtype=np.int64)
        padded[: len(columns)] = columns
        self.load(ROW_EXPONENTS, 0, _exponents(rows), after)
        self.load(COLUMN_EXPONENTS, 0, _exponents(padded))

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


def gemm_program(design: Design, left_MK: Int, right_KN: Int, mode: Mode) -> Program:
    """Load both operands, multiply, store the sums. Raises `ValueError` for what one half of a buffer cannot hold."""
    return gemms_program(design, [(left_MK, right_KN)], mode)[0]


def gemms_program(
    design: Design, gemms: Sequence[tuple[Int, Int]], mode: Mode, turned: tuple[Edge, ...] = ()
) -> tuple[Program, list[slice]]:
    """Load all operands, multiply back to back, store the sums; and where the words of each lie.

    turned: operands that come as they do not lie in the buffer, and pass a transposer.
    """
    program, places = Program(design), []
    left = right = result = 0
    for left_MK, right_KN in gemms:
        (M, K), N = left_MK.shape, right_KN.shape[1]
        if "left" in turned:
            program.load_turned(LEFT, left_MK.T if mode == "weight_stationary" else left_MK, left)
        else:
            program.load_left(left_MK, mode, left)
        if "right" in turned:
            program.load_turned(RIGHT, right_KN.T, right)
        else:
            program.load_right(right_KN, right)
        places.append((left, right, result))
        on_rows, streamed = (K, M) if mode == "weight_stationary" else (M, K)
        left += -(-on_rows // design.rows) * streamed
        right += -(-N // design.cols) * K
        result += -(-N // design.cols) * M
    spill = {"left": design.rows, "right": design.cols}  # of a last block that is not full
    left, right = (at + (spill[edge] if edge in turned else 0) for edge, at in (("left", left), ("right", right)))
    used = {"left": (left, design.left_words), "right": (right, design.right_words),
            "result": (result, design.result_words)}  # fmt: skip
    over = [f"{name} {need:,} words of {has:,}" for name, (need, has) in used.items() if need > has]
    if over:
        shapes = ", ".join(f"{len(x)} x {w.shape[1]} x {len(w)}" for x, w in gemms)
        raise ValueError(f"GEMM {shapes} does not fit: {', '.join(over)}")
    for (left_MK, right_KN), (left, right, at) in zip(gemms, places, strict=True):
        shape = len(left_MK), right_KN.shape[1], len(right_KN)
        program.gemm(shape, mode, left=left, right=right, result=at, after=("LOAD",))
    program.store(0, result)
    ends = [*(at for _, _, at in places[1:]), result]
    return program, [slice(at, end) for (_, _, at), end in zip(places, ends, strict=True)]


def left_words(left_MK: Int, mode: Mode, design: Design) -> Bytes:
    """Blocks of what lies on the rows, each a word an element of what streams."""
    streamed = left_MK if mode == "weight_stationary" else left_MK.T
    return _words(streamed, design.rows, design.operand_bits)


def right_words(right_KN: Int, design: Design) -> Bytes:
    """Blocks of columns, each a word a row."""
    return _words(right_KN, design.cols, design.operand_bits)


def result_words(sums_MN: Int, design: Design) -> Bytes:
    """Blocks of columns, each a word a row: what STORE gives."""
    return _words(sums_MN, design.cols, design.sum_bits)


def _words(matrix: Int, lanes: int, bits: int) -> Bytes:
    length, width = matrix.shape
    blocks = -(-width // lanes)
    padded = np.zeros((length, blocks * lanes), dtype=np.int32)
    padded[:, :width] = matrix
    lanes_first = padded.reshape(length, blocks, lanes).swapaxes(0, 1).reshape(-1, lanes)
    raw = np.ascontiguousarray(lanes_first, dtype="<i4").view(np.uint8).reshape(len(lanes_first), lanes, 4)
    if bits % 8 == 0:
        return raw[:, :, : bits // 8].reshape(len(raw), -1)
    places = np.unpackbits(raw, axis=2, bitorder="little")[:, :, :bits].reshape(len(raw), -1)
    return np.packbits(places, axis=1, bitorder="little")


def _exponents(values: Int) -> Bytes:
    return np.asarray(values).astype("<i2").view(np.uint8).reshape(-1, 2)


def sums_of(words: Bytes, rows: int, columns: int, design: Design) -> NDArray[np.int32]:
    """Words of the result buffer, blocks of `rows`, as a matrix."""
    bits, lanes = design.sum_bits, design.cols
    places = np.unpackbits(words, axis=1, bitorder="little")[:, : lanes * bits].reshape(-1, lanes, bits)
    signed = np.concatenate([places, np.repeat(places[:, :, -1:], 32 - bits, axis=2)], axis=2)
    sums = np.packbits(signed, axis=2, bitorder="little").view("<i4").reshape(-1, rows, lanes)
    return sums.swapaxes(0, 1).reshape(rows, -1)[:, :columns].astype(np.int32)
