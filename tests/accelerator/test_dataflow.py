"""The closed forms against SCALE-Sim v3's measured cycles, and against the published first-order figures."""

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from intaglio.accelerator.dataflow import ARRAY_OVERLAPS, DATAFLOWS, compute_cycles, cycles_of_cuts, fold_count

SCALESIM = Path(__file__).parents[1] / "data" / "scalesim_v3_gemm_cycles.csv"


def test_one_value_by_hand():
    # 64 x 4 x 1280 on 32 x 32, weight-stationary: K = 1280 lies on 40 row folds, N = 4 on one column fold, M = 64
    # streams.
    # A fold: 32 loads + 64 streamed + (32 - 1) + (32 - 1) skew = 158; 40 * 158 - 1 = 6319, the first row of the file.
    cycles = compute_cycles(64, 4, 1280, rows=32, cols=32, dataflow="weight_stationary", overlap="none")
    assert int(cycles) == 6319


def test_none_reproduces_every_scalesim_run():
    with SCALESIM.open() as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == 126
    for run in runs:
        M, N, K, rows, cols = (int(run[name]) for name in ("M", "N", "K", "rows", "cols"))
        cycles = int(compute_cycles(M, N, K, rows=rows, cols=cols, dataflow=run["dataflow"], overlap="none"))
        assert cycles == int(run["compute_cycles"]), run
        assert M * N * K / (rows * cols * cycles) == pytest.approx(float(run["overall_utilization"]), abs=1e-6)


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_more_overlap_never_costs_cycles(dataflow):
    rng = np.random.default_rng(0)
    M, N, K = rng.integers(1, 300, (3, 200))
    for rows, cols in ((1, 1), (7, 5), (32, 32), (16, 64)):
        cycles = [compute_cycles(M, N, K, rows=rows, cols=cols, dataflow=dataflow, overlap=o) for o in ARRAY_OVERLAPS]
        for slower, faster in pairwise(cycles):
            assert (faster <= slower).all()
        assert (cycles[-1] * rows * cols >= M * N * K).all()


def test_a_single_fold_hides_nothing():
    for dataflow in DATAFLOWS:
        cycles = {int(compute_cycles(3, 3, 3, rows=4, cols=5, dataflow=dataflow, overlap=o)) for o in ARRAY_OVERLAPS}
        assert cycles == {2 * 4 + 5 + 3 - 2}


def test_folds_by_hand():
    assert int(fold_count(77, 320, 768, 32, 32, "output_stationary")) == 3 * 10


@pytest.mark.parametrize("dataflow", DATAFLOWS)
@pytest.mark.parametrize("overlap", ARRAY_OVERLAPS)
def test_cuts_are_folds_of_nearly_equal_length(dataflow, overlap):
    # 10 elements in 3 cuts are 3 + 3 + 4; 2 folds of each, on 1 array and on 4.
    def wait(length):
        one, two = (cycles_of_cuts(f, length, 1, 1, 4, 5, dataflow, overlap) for f in (1, 2))
        return int(two - one)

    alone = 4 * wait(3) + wait(4) + 2 * 4 + 5 + 4 - 2
    assert int(cycles_of_cuts(2, 10, 3, 1, 4, 5, dataflow, overlap)) == alone
    assert int(cycles_of_cuts(2, 10, 3, 4, 4, 5, dataflow, overlap)) == wait(3) + 2 * 4 + 5 + 4 - 2
    whole = compute_cycles(10, 5, 8, rows=4, cols=5, dataflow="weight_stationary", overlap=overlap)
    assert int(cycles_of_cuts(2, 10, 1, 1, 4, 5, "weight_stationary", overlap)) == int(whole)
