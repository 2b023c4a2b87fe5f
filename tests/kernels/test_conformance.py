"""Every implementation that this machine has, of every operation, against the definition: a new one is under it."""

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from intaglio import kernels
from intaglio.kernels import isa

from .cases import BOUNDS, LONG, MAKERS, SMOKE, assert_conforms, made_for, run

pytestmark = pytest.mark.once
OPS = kernels.operations()
THERE = [
    pytest.param(name, implementation, id=f"{name}-{implementation.name}")
    for name, op in OPS.items()
    for implementation in op.implementations
    if implementation.device == "cpu" and implementation.needs <= isa.detected()
]
EXACT = sorted(name for name in OPS if name not in BOUNDS)


def test_every_operation_has_cases():
    assert sorted(OPS) == sorted(MAKERS)


@pytest.mark.parametrize(("name", "implementation"), THERE)
def test_is_the_definition(name, implementation):
    taken = 0
    for sizes, args in ((size, args) for size in SMOKE + LONG for args in made_for(name, size)):
        if implementation.takes is not None and not implementation.takes(*args):
            continue
        with kernels.using("reference"):
            expected = run(OPS[name].run, args)
        torch.set_num_threads(2 if sizes in LONG else 1)
        assert_conforms(name, run(implementation.alone, args), expected)
        torch.set_num_threads(1)
        taken += 1
    assert taken or "torch._int_mm" in implementation.condition, "no case that it takes"


@pytest.mark.parametrize("name", EXACT)
@hypothesis.given(st.integers(1, 140), st.integers(1, 300), st.integers(1, 40), st.integers(0, 2**31))
@hypothesis.settings(max_examples=12, deadline=None, derandomize=True, database=None)
def test_all_give_the_same_bits(name, m, c, n, seed):
    for args in made_for(name, (m, c, n), seed):
        takers = [
            i for i in OPS[name].implementations
            if i.device == "cpu" and i.needs <= isa.detected() and (i.takes is None or i.takes(*args))
        ]  # fmt: skip
        results = [run(i.alone, args) for i in takers]
        for other in results[1:]:
            assert_conforms(name, other, results[0])
