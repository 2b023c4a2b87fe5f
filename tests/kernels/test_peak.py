"""The measured peak: what it counts, and that levels without the instruction say so."""

import pytest

from intaglio.kernels import binding


def test_counts_operations():
    kernels = binding.library()
    if kernels is None:
        pytest.skip("no compiled kernels")
    expected = 3 * 12 * 64 * 2 if binding.reaches("avx512") else 0
    assert kernels.intaglio_int8_peak(3) == expected
    assert kernels.intaglio_int8_peak(0) == kernels.intaglio_int8_peak(-1) == 0


def test_none_below_avx512():
    kernels = binding.library()
    if kernels is None:
        pytest.skip("no compiled kernels")
    before = binding.path_in_use()
    binding.set_level("avx2")
    try:
        assert kernels.intaglio_int8_peak(3) == 0
    finally:
        binding.set_level(before)
