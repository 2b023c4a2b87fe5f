"""The cycle-by-cycle array: right products, and the counts that the closed forms must equal."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intaglio.accelerator import array_simulator
from intaglio.accelerator.array_simulator import run_array
from intaglio.accelerator.dataflow import ARRAY_OVERLAPS, DATAFLOWS, compute_cycles
from intaglio.errors import UserError

MODES = [(d, o) for d in DATAFLOWS for o in ARRAY_OVERLAPS]


def random_product(seed: int, M: int, N: int, K: int):
    rng = np.random.default_rng(seed)
    return rng.integers(-128, 128, (M, K), dtype=np.int8), rng.integers(-128, 128, (K, N), dtype=np.int8)


def exact(left, right):
    return left.astype(np.int64) @ right.astype(np.int64)


@settings(max_examples=100, deadline=None)
@given(
    mode=st.sampled_from(MODES),
    array=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    shape=st.tuples(st.integers(1, 13), st.integers(1, 13), st.integers(1, 13)),
    seed=st.integers(0, 2**32 - 1),
)
def test_products_and_cycles_equal_the_definitions(mode, array, shape, seed):
    (dataflow, overlap), (rows, cols), (M, N, K) = mode, array, shape
    left, right = random_product(seed, M, N, K)
    (result,), cycles = run_array([(left, right)], rows=rows, cols=cols, dataflow=dataflow, overlap=overlap)
    assert result.dtype == np.int32
    assert np.array_equal(result, exact(left, right))
    assert cycles == int(compute_cycles(M, N, K, rows=rows, cols=cols, dataflow=dataflow, overlap=overlap))


@pytest.mark.parametrize(("dataflow", "overlap"), MODES)
def test_back_to_back_products_of_other_shapes(dataflow, overlap):
    products = [
        random_product(s, *shape) for s, shape in enumerate([(5, 3, 9), (1, 7, 2), (8, 8, 8), (2, 1, 11), (6, 5, 1)])
    ]
    results, cycles = run_array(products, rows=4, cols=3, dataflow=dataflow, overlap=overlap)
    for result, (left, right) in zip(results, products, strict=True):
        assert np.array_equal(result, exact(left, right))
    alone = sum(run_array([p], rows=4, cols=3, dataflow=dataflow, overlap=overlap)[1] for p in products)
    assert cycles == alone if overlap == "serial" else cycles < alone


@pytest.mark.parametrize(("dataflow", "overlap"), MODES)
@pytest.mark.parametrize("length", [2, 6])  # shorter and longer than the 3 rows: the chain, or the PE, is the limit
def test_every_overlap_is_tight(dataflow, overlap, length, monkeypatch):
    """Folds that start one cycle earlier give wrong numbers; one cycle later they are right."""
    starts = array_simulator.fold_starts
    M, K = (length, 6) if dataflow == "weight_stationary" else (6, length)
    left, right = random_product(1, M, 6, K)
    for shift, equal in ((-1, False), (0, True), (1, True)):
        moved = lambda *a, shift=shift: [s + shift * i for i, s in enumerate(starts(*a))]  # noqa: E731
        monkeypatch.setattr(array_simulator, "fold_starts", moved)
        (result,), _ = run_array([(left, right)], rows=3, cols=3, dataflow=dataflow, overlap=overlap)
        assert np.array_equal(result, exact(left, right)) == equal


def test_one_register_by_hand():
    # 2 folds of T = 64 on 64 x 64 with one register: 2 * 64 + 64 + 64 - 2 = 254, and the second 64 + 64 - 1 later.
    cycles = compute_cycles(64, 128, 64, rows=64, cols=64, dataflow="weight_stationary", overlap="wavefront")
    assert int(cycles) == 254 + 127


def test_int32_sums_hold_the_largest_reduction():
    left, right = np.full((1, 4096), -128, dtype=np.int8), np.full((4096, 1), -128, dtype=np.int8)
    (result,), _ = run_array([(left, right)], rows=2, cols=2, dataflow="output_stationary", overlap="serial")
    assert result[0, 0] == 4096 * 128**2


def test_scalesim_count_is_not_an_array():
    with pytest.raises(UserError, match="SCALE-Sim's, which does not charge the drain"):
        run_array([random_product(0, 2, 2, 2)], rows=2, cols=2, dataflow="weight_stationary", overlap="none")
