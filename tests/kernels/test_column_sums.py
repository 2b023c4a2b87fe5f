"""Sums over tokens against float64."""

import pytest
import torch

from intaglio.kernels.column_sums import column_sums

SHAPES = [(1, 1, 1), (2, 3, 5), (3, 64, 7), (2, 129, 257), (1, 1000, 300), (2, 63, 128)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums(shape):
    samples, rows, _ = shape
    a, b = torch.randn(shape), torch.randn(shape)
    narrow = a.bfloat16()
    codes = torch.randint(-127, 128, shape, dtype=torch.int8)
    for scale in (torch.rand(samples * rows) + 0.5, torch.rand(samples) + 0.5):
        wide = codes.double() * scale.double().repeat_interleave(samples * rows // len(scale)).view(samples, rows, 1)
        for got, product in (
            (column_sums(a, b), a.double() * b.double()),
            (column_sums(a), a.double()),
            (column_sums(a, codes, scale), a.double() * wide),
            (column_sums(narrow, b), narrow.double() * b.double()),
            (column_sums(narrow), narrow.double()),
            (column_sums(narrow, codes, scale), narrow.double() * wide),
        ):
            # Each product is rounded twice; a sum of n terms rounds n times at most: |error| <= (n + 2) u sum |terms|.
            bound = (rows + 2) * 2.0**-24 * product.abs().sum(1)
            assert got.dtype == torch.float32
            assert ((got.double() - product.sum(1)).abs() <= bound).all()


def test_strides():
    a = torch.randn(2, 7, 5).transpose(1, 2)
    torch.testing.assert_close(column_sums(a, a), (a * a).sum(1))
    rows = torch.randn(2, 3, 70).bfloat16()[..., 3:69]
    codes = torch.randint(-127, 128, rows.shape, dtype=torch.int8)
    torch.testing.assert_close(column_sums(rows, codes, torch.ones(1)), (rows.float() * codes).sum(1))


def test_empty():
    for shape in ((0, 3, 4), (2, 0, 4), (2, 3, 0)):
        assert torch.equal(column_sums(torch.ones(shape)), torch.zeros(shape[0], shape[2]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_threads_change_nothing(dtype):
    a = torch.randn(3, 201, 130).to(dtype)
    codes, scale = torch.randint(-127, 128, a.shape, dtype=torch.int8), torch.rand(603)
    before = torch.get_num_threads()
    sums = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        sums.append(column_sums(a, codes, scale))
    torch.set_num_threads(before)
    assert torch.equal(*sums)


@pytest.mark.once
def test_what_is_refused():
    a = torch.zeros(2, 3, 4)
    for call in (
        lambda: column_sums(a, a[:1]),
        lambda: column_sums(a, a.to(torch.int8)),
        lambda: column_sums(a, a, torch.ones(6)),
        lambda: column_sums(a, a.to(torch.int8), torch.ones(4)),
        lambda: column_sums(a[0]),
    ):
        with pytest.raises(ValueError, match="expected two of"):
            call()
