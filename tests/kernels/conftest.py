"""Every test of a kernel runs twice: compiled, and on torch alone."""

import pytest

from intaglio.kernels import binding


@pytest.fixture(params=["compiled", "torch"], autouse=True)
def path(request, monkeypatch):
    """The path that computes. The compiled one is left out where it cannot be built."""
    if request.param == "torch":
        monkeypatch.setattr(binding, "library", lambda: None)
    elif binding.library() is None:
        pytest.skip("no compiled kernels here")
    return request.param
