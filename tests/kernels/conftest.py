"""Every test of a kernel runs on each level that this processor has, and on torch alone: by its product of floats,
and by that of bytes as far as this processor's is exact."""

import pytest

from intaglio.kernels import binding
from intaglio.kernels.int8_matmul import int_mm

BYTES = "torch, bytes"


@pytest.fixture(params=(*binding.PATHS, BYTES), autouse=True)
def path(request, monkeypatch):
    """The path that computes. A compiled one is left out where it cannot be built or run."""
    if request.param in ("torch", BYTES):
        monkeypatch.setattr(binding, "library", lambda: None)
        monkeypatch.setattr(int_mm, "serves", int_mm.is_exact if request.param == BYTES else lambda largest_code: False)
        yield "torch"
        return
    kernels = binding.library()
    if kernels is None:
        pytest.skip("no compiled kernels here")
    if not kernels.intaglio_has_level(binding.LEVELS.index(request.param)):
        pytest.skip(f"this processor has no {request.param}")
    before = binding.path_in_use()
    binding.set_level(request.param)
    yield request.param
    binding.set_level(before)
