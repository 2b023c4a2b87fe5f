"""The eight products of a training step, run through the array cycle by cycle: equal to the definition bit for bit.

Neither package imports the other; the step's operands are arrays of integers.
"""

import numpy as np
import pytest

from intaglio.accelerator.array_simulator import run_array
from intaglio.quantizers import integer_step as step

M, K, N, RANK, BITS = 9, 11, 7, 2, 8


@pytest.mark.parametrize("seed", [None, 5], ids=["nearest", "stochastic"])
@pytest.mark.parametrize("dataflow", ["weight_stationary", "output_stationary"])
def test_a_step_on_the_array(dataflow, seed):
    rng = np.random.default_rng(3)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    weight = rng.integers(-127, 128, (N, K)).astype(np.int8)
    x, g = step.quantize(normal(M, K), BITS, M), step.quantize(normal(M, N), BITS, M, seed)
    a, columns = step.quantize(normal(RANK, K), BITS, RANK), step.quantize(normal(RANK, N), BITS, RANK)
    b = step.Codes(columns.codes.T, columns.exponent.T)
    first = step.forward(x, weight, a, b, bits=BITS, groups=M)
    second = step.backward(g, x, first.h, weight, a, b, bits=BITS, groups=M, seed=seed)

    packed_rows, packed_columns = np.vstack([weight, a.codes]), np.hstack([weight, b.codes])
    products = [
        (x.codes, packed_rows.T, np.hstack([first.y, first.h])),
        (first.h_codes.codes, b.codes.T, first.u),
        (g.codes, packed_columns, np.hstack([second.dx, second.gh])),
        (second.gh_codes.codes, a.codes, second.v),
        (second.h_columns.codes.T, g.codes, second.db.T),
        (second.gh_columns.codes.T, x.codes, second.da),
    ]
    operands = [(left, right) for left, right, _ in products]
    results, _ = run_array(operands, rows=4, cols=4, dataflow=dataflow, overlap="double_buffered")
    for got, (_, _, expected) in zip(results, products, strict=True):
        assert np.array_equal(got, expected)
        assert expected.any()
