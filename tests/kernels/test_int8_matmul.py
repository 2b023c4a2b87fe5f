"""Every path equals the definition bit for bit."""

import numpy as np
import pytest
import torch

from intaglio.kernels.int8_matmul import MAX_REDUCTION, int8_matmul
from intaglio.kernels.int8_matmul.reference import product

SHAPES = [
    (1, 1, 1), (1, 1, 3), (2, 3, 5), (7, 11, 13), (5, 8, 4), (6, 16, 32), (13, 17, 33), (31, 37, 127),
    (64, 64, 64), (97, 101, 103), (3, 257, 1031), (200, 130, 70), (0, 4, 4), (4, 0, 4), (4, 4, 0),
]  # fmt: skip


def codes(rows, columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-128, 128, (rows, columns), dtype=torch.int8, generator=generator)


def assert_equals_definition(x, w):
    expected = torch.from_numpy(product(x.numpy(), w.numpy()))
    assert torch.equal(int8_matmul(x, w), expected)
    assert torch.equal(int8_matmul(x, w.T.contiguous().T), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_definition(shape):
    m, n, k = shape
    assert_equals_definition(codes(m, k, 1), codes(n, k, 2))


@pytest.mark.parametrize("value", [-128, -127, 127])
@pytest.mark.parametrize("other", [-128, 127, -8, 7, -64, 64])
def test_extreme_codes(value, other):
    """Where 16-bit sums of two products saturate, and where they just do not."""
    x, w = torch.full((7, 1100), value, dtype=torch.int8), torch.full((19, 1100), other, dtype=torch.int8)
    assert_equals_definition(x, w)


def test_the_longest_sum():
    x = torch.full((1, MAX_REDUCTION), -128, dtype=torch.int8)
    w = torch.full((2, MAX_REDUCTION), -128, dtype=torch.int8)
    w[1] = 127
    assert int8_matmul(x, w).tolist() == [[MAX_REDUCTION * 128 * 128, -MAX_REDUCTION * 128 * 127]]
    assert MAX_REDUCTION * 128 * 128 <= 2**31 - 1 < (MAX_REDUCTION + 1) * 128 * 128


def test_strides():
    """Transposed, cut, stepped, broadcast, and starting at an odd address."""
    wide = codes(40, 90)
    for x in (wide.T[:40, :33], wide[1:, 3:36], wide[::2, ::2][:, :33], wide[:1, :33].expand(9, 33)):
        w = codes(90, 40, 3)[:21, 1:34]
        expected = torch.from_numpy(product(x.numpy(), w.numpy()))
        assert torch.equal(int8_matmul(x, w), expected)


@pytest.mark.once
def test_what_is_refused():
    x = codes(4, 8)
    too_long = torch.zeros(1, 1, dtype=torch.int8).expand(1, MAX_REDUCTION + 1)
    for call, message in (
        (lambda: int8_matmul(x.float(), x), "x is torch.float32 of shape (4, 8); expected torch.int8"),
        (lambda: int8_matmul(x, x[0]), "w is torch.int8 of shape (8,); expected torch.int8 of two dimensions"),
        (lambda: int8_matmul(x, x.T), "do not meet: 8 columns against 4"),
        (lambda: int8_matmul(too_long, too_long), "a sum of 131,072 products may not fit int32; at most 131,071"),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert message in str(caught.value)


def test_the_definition_by_hand():
    x, w = np.array([[1, -2], [3, 4]], np.int8), np.array([[5, 6]], np.int8)
    assert product(x, w).tolist() == [[-7], [39]]
