"""torch's product of bytes: where it is not exact, it must not serve."""

import random

import pytest
import torch

from intaglio.kernels.int8_matmul import int_mm

pytestmark = pytest.mark.once

SIZES = (1, 2, 3, 5, 8, 16, 17, 33, 64, 127, 640)


def codes(rows, columns, largest):
    return torch.randint(-largest, largest, (rows, columns), dtype=torch.int8)


@pytest.mark.parametrize("largest", [8, 128])
def test_shapes(largest, path):
    """Every layout, and axes of one element, whose strides may be anything."""
    if not int_mm.is_exact(largest):
        pytest.skip("saturates here")
    for m, n, k in random.Random(0).sample([(m, n, k) for m in SIZES for n in SIZES for k in SIZES], 200):
        x, w = codes(m, k, 128), codes(n, k, largest)
        expected = (x.double() @ w.double().T).int()
        for left in (x, x.T.contiguous().T, codes(2 * m, k + 1, 128)[::2, 1:].copy_(x)):
            for right in (w.T, w.T.contiguous(), codes(n, k + 1, 8)[:, 1:].copy_(w).T):
                assert torch.equal(int_mm.product(left, right), expected), (m, n, k, left.stride(), right.stride())


@pytest.fixture
def forgotten():
    """As if nothing had been tried yet."""
    int_mm.is_exact.cache_clear()
    yield
    int_mm.is_exact.cache_clear()


def saturating(x, w):
    """The instruction of processors without VNNI: x made unsigned, neighbouring products added in 16 bits."""
    unsigned, w = (x.int() + 128).T.unflatten(0, (-1, 2)), w.int().unflatten(0, (-1, 2))
    pairs = torch.einsum("kpm,kpn->kmn", unsigned.double(), w.double()).clamp(-(2**15), 2**15 - 1)
    return (pairs.sum(0) - 128 * w.sum((0, 1))).int()


def test_a_saturating_product_serves_four_bits_alone(monkeypatch, forgotten):
    monkeypatch.setattr(torch, "_int_mm", saturating)
    assert int_mm.is_exact(8)
    assert not int_mm.is_exact(128)


def test_a_saturating_product_of_the_other_side_serves_nothing(monkeypatch, forgotten):
    """135 * 127 + 135 * 127 is above 2**15: w made unsigned."""
    monkeypatch.setattr(torch, "_int_mm", lambda x, w: saturating(w.T, x.T).T)
    assert not int_mm.is_exact(8)


def test_a_torch_without_it_serves_nothing(monkeypatch, forgotten):
    def refuse(x, w):
        raise RuntimeError("not for this processor")

    monkeypatch.setattr(torch, "_int_mm", refuse)
    assert not int_mm.is_exact(8)
