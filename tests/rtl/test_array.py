"""GEMMs on the machine in Amaranth's simulator: INT32 sums and cycles of `accelerator/array_simulator.py`."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="needs intaglio[rtl]")

from intaglio.accelerator.array_simulator import run_array
from intaglio.accelerator.dataflow import ARRAY_OVERLAPS, compute_cycles
from intaglio.rtl.design import GEMM_CYCLES, MODES, OVERLAPS, Design
from intaglio.rtl.instructions import LEFT, RIGHT
from intaglio.rtl.program import Program, gemm_program, gemms_program, sums_of
from intaglio.rtl.simulate import Stuck, run

WORDS = 2048
CASES = [(mode, overlap) for mode in MODES for overlap in OVERLAPS]


def random_gemms(rng, count):
    """Pairs of random INT8 matrices, edges ragged."""
    shapes = rng.integers(1, 14, (count, 3))
    return [
        (rng.integers(-128, 128, (M, K)).astype(np.int8), rng.integers(-128, 128, (K, N)).astype(np.int8))
        for M, N, K in shapes
    ]


def back_to_back(design, gemms, mode):
    """One program for all: load everything, multiply without a pause, store."""
    program, places = gemms_program(design, gemms, mode)
    words, gemm_cycles, _ = run(program)
    return [
        sums_of(words[place], len(x), w.shape[1], design) for (x, w), place in zip(gemms, places, strict=True)
    ], gemm_cycles


def check(seed, mode, overlap):
    rng = np.random.default_rng(seed)
    rows, cols = (int(v) for v in rng.integers(1, 9, 2))
    gemms = random_gemms(rng, int(rng.integers(1, 4)))
    sums, gemm_cycles = back_to_back(
        Design(rows, cols, overlap=overlap, left_words=WORDS, right_words=WORDS, result_words=WORDS), gemms, mode
    )
    expected, cycles = run_array(gemms, rows=rows, cols=cols, dataflow=mode, overlap=overlap)
    for got, wanted in zip(sums, expected, strict=True):
        assert np.array_equal(got, wanted)
    assert gemm_cycles == cycles + GEMM_CYCLES


@pytest.mark.parametrize(("mode", "overlap"), CASES)
def test_the_expression_of_cycles_is_the_model_s(mode, overlap):
    rng = np.random.default_rng(0)
    for rows, cols, M, N, K in rng.integers(1, 40, (50, 5)).tolist():
        arguments = {"rows": rows, "cols": cols, "dataflow": mode, "overlap": overlap}
        assert Design(rows, cols, overlap=overlap).fold_cycles((M, N, K), mode) == compute_cycles(M, N, K, **arguments)


def test_the_overlaps_are_those_of_the_model():
    assert OVERLAPS == ARRAY_OVERLAPS


@pytest.mark.parametrize(("mode", "overlap"), CASES)
def test_sums_and_cycles(mode, overlap):
    check(3, mode, overlap)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(25))
def test_two_hundred_random_cases(seed):
    for number, (mode, overlap) in enumerate(CASES):
        check(1000 + 8 * seed + number, mode, overlap)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "overlap"), CASES)
def test_one_mode_arrays(mode, overlap):
    """A PE without the other dataflow's registers."""
    gemms = random_gemms(np.random.default_rng(7), 2)
    sums, cycles = back_to_back(Design(3, 2, modes=(mode,), overlap=overlap), gemms, mode)
    expected, model = run_array(gemms, rows=3, cols=2, dataflow=mode, overlap=overlap)
    assert all(np.array_equal(a, b) for a, b in zip(sums, expected, strict=True))
    assert cycles == model + GEMM_CYCLES


@pytest.mark.parametrize("overlap", ["wavefront", "shadow"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", [2, 7])  # shorter and longer than the rows: the chain, or the PE, is the limit
def test_a_cycle_earlier_is_wrong(mode, overlap, length):
    design = Design(3, 3, overlap=overlap)
    rng = np.random.default_rng(1)
    M, K = (length, 6) if mode == "weight_stationary" else (6, length)
    x = rng.integers(-128, 128, (M, K)).astype(np.int8)
    w = rng.integers(-128, 128, (K, 6)).astype(np.int8)
    program = gemm_program(design, x, w, mode)
    expected = x.astype(int) @ w
    assert np.array_equal(sums_of(run(program)[0], M, 6, design), expected)
    try:
        words, *_ = run(program, replace(design, early=1), most_cycles=2000)
    except Stuck:
        return
    assert not np.array_equal(sums_of(words, M, 6, design), expected)


@pytest.mark.parametrize("mode", MODES)
def test_a_split_reduction_accumulates(mode):
    """Split-K: the second half of the reduction is added to the sums of the first."""
    design, rng = Design(4, 3), np.random.default_rng(2)
    x, w = rng.integers(-128, 128, (5, 11)).astype(np.int8), rng.integers(-128, 128, (11, 7)).astype(np.int8)
    program = Program(design)
    for start, stop in ((0, 6), (6, 11)):
        program.load_left(x[:, start:stop], mode, after=("GEMM",))
        program.load_right(w[start:stop], after=("GEMM",))
        program.gemm((5, 7, stop - start), mode, accumulate=start > 0, after=("LOAD",))
    program.store(0, 5 * 3)
    assert np.array_equal(sums_of(run(program)[0], 5, 7, design), x.astype(int) @ w)


@pytest.mark.parametrize("mode", MODES)
def test_packed_columns_lie_at_a_second_address(mode):
    design, rng = Design(3, 4), np.random.default_rng(4)
    x = rng.integers(-128, 128, (5, 6)).astype(np.int8)
    w, a = rng.integers(-128, 128, (6, 8)).astype(np.int8), rng.integers(-128, 128, (6, 2)).astype(np.int8)
    program = Program(design)
    program.load_left(x, mode)
    program.load_right(w, 0)
    program.load_right(a, 100)
    program.gemm((5, 10, 6), mode, packed=(8, 100), after=("LOAD",))
    program.store(0, 5 * 3)
    assert np.array_equal(sums_of(run(program)[0], 5, 10, design), x.astype(int) @ np.hstack([w, a]))


def test_a_buffer_fills_while_the_array_works():
    """Double buffering: the second GEMM's operands are loaded into the other halves during the first."""
    from intaglio.rtl.design import HALF

    design, rng = Design(4, 4, overlap="wavefront"), np.random.default_rng(5)
    gemms = [(rng.integers(-128, 128, (9, 16)), rng.integers(-128, 128, (16, 16))) for _ in range(2)]

    def cycles(beside):
        program = Program(design)
        for half, (x, w) in zip((0, HALF), gemms, strict=True):
            wait = () if beside else ("GEMM", "STORE")
            program.load_left(x, "weight_stationary", half, after=wait)
            program.load_right(w, half)
            shape = (9, 16, 16)
            program.gemm(shape, "weight_stationary", left=half, right=half, result=half, after=("LOAD",))
            if not beside:
                program.store(half, 36)
        if beside:
            program.store(0, 36)
            program.store(HALF, 36)
        words, _, total = run(program)
        for index, (x, w) in enumerate(gemms):
            assert np.array_equal(sums_of(words[36 * index : 36 * index + 36], 9, 16, design), x @ w)
        return total

    assert cycles(beside=True) < cycles(beside=False) - 60


def test_a_gemm_that_does_not_fit_says_so():
    with pytest.raises(
        ValueError, match="GEMM 300 x 2 x 3 does not fit: left 300 words of 256, result 300 words of 256"
    ):
        gemm_program(Design(3, 2), np.zeros((300, 3)), np.zeros((3, 2)), "weight_stationary")


@pytest.mark.parametrize(("rows", "cols"), [(4, 3), (1, 5)])
@pytest.mark.parametrize("mode", MODES)
def test_a_transposer_turns_operands_as_they_are_loaded(mode, rows, cols):
    """WS: W^T from W as it lies; OS: the left operand too, which it wants by columns."""
    design, rng = Design(rows, cols, transposers=("left", "right")), np.random.default_rng(6)
    x, w = rng.integers(-128, 128, (7, 10)).astype(np.int8), rng.integers(-128, 128, (8, 10)).astype(np.int8)
    program = Program(design)
    if mode == "weight_stationary":
        program.load_left(x, mode)
    else:
        program.load_turned(LEFT, x)
    program.load_turned(RIGHT, w)
    program.gemm((7, 8, 10), mode, after=("LOAD",))
    program.store(0, 7 * -(-8 // cols))
    words, *_ = run(program)
    assert np.array_equal(sums_of(words, 7, 8, design), x.astype(int) @ w.T)


def test_a_turned_load_takes_a_block_of_cycles_more():
    """What the model charges once for a transposer: the cycles to fill it."""
    design, rng = Design(4, 4, transposers=("left", "right")), np.random.default_rng(8)
    gemms = [(rng.integers(-128, 128, (8, 4)), rng.integers(-128, 128, (4, 4)))]
    runs = [run(gemms_program(design, gemms, "weight_stationary", turned)[0]) for turned in ((), ("left",), ("right",))]
    assert [total - runs[0][2] for *_, total in runs[1:]] == [4, 4]
    assert all(np.array_equal(words, runs[0][0]) for words, *_ in runs)
