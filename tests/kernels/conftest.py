"""A test of a kernel runs by the best code that this machine has and by the definitions; on the grid, in full, by every
other set of features and by torch alone too: `test_conformance.py` holds these by few shapes. Marked `once`, what
does not depend on it, or would compare a definition with itself, runs by the best alone, and on the grid by those that
the marker names."""

import pytest
import torch

from intaglio.kernels import isa, using
from intaglio.kernels.int8_matmul import int_mm

BYTES = "torch, bytes"
PATHS = (*isa.PATHS, BYTES)
"""torch alone twice: by its product of floats, and by that of bytes as far as this processor's is exact."""


def pytest_generate_tests(metafunc):
    best = isa.best_set()
    once = metafunc.definition.get_closest_marker("once")
    always = {best} if once else {best, "reference"}
    others = once.args if once else PATHS
    paths = [pytest.param(path) for path in sorted(always)]
    paths += [pytest.param(path, marks=pytest.mark.grid) for path in others if path not in always]
    metafunc.parametrize("path", paths, indirect=True)


@pytest.fixture(autouse=True)
def one_thread():
    """Who tests threads sets their number, `test_conformance.py` every implementation with two. A second thread for a
    matrix of a few rows costs more than the test."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def path(request, monkeypatch):
    """The path that computes: a name of `isa.PATHS`."""
    name = "torch" if request.param == BYTES else request.param
    if not isa.SETS.get(name, frozenset()) <= isa.detected():
        pytest.skip(f"this processor has no {name}, or the kernels are not compiled")
    if name == "torch":
        exact = int_mm.is_exact if request.param == BYTES else lambda largest_code: False
        monkeypatch.setattr(int_mm, "serves", exact)
    with using(name):
        yield name
