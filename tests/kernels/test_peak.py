"""The measured peak: what it counts, and that levels without the instruction say so."""

import pytest

from intaglio.kernels import binding, isa, using


@pytest.fixture
def peak():
    kernels = binding.library()
    if kernels is None:
        pytest.skip("no compiled kernels")
    return kernels.intaglio_int8_peak


def test_counts_operations(peak):
    assert peak(3) == (3 * 12 * 64 * 2 if binding.reaches("avx512") else 0)
    assert peak(0) == peak(-1) == 0


@pytest.mark.once
def test_none_below_avx512(peak):
    for name in isa.SETS:
        if isa.SETS[name] <= isa.detected() and not isa.SETS["avx512"] <= isa.SETS[name]:
            with using(name):
                assert peak(3) == 0
