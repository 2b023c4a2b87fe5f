"""Every test of a kernel runs on each level that this processor has, and on torch alone."""

import pytest

from intaglio.kernels import binding


@pytest.fixture(params=binding.PATHS, autouse=True)
def path(request, monkeypatch):
    """The path that computes. A compiled one is left out where it cannot be built or run."""
    if request.param == "torch":
        monkeypatch.setattr(binding, "library", lambda: None)
        yield request.param
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
