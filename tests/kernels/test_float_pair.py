"""The products of a low-rank pair against float64, within what rounding to bfloat16 may do."""

import pytest
import torch

from intaglio.kernels.float_pair import pair_down, pair_sums, pair_up

ODD = [(1, 1, 1), (2, 3, 1), (13, 37, 5), (24, 64, 16), (25, 65, 17), (7, 33, 32), (127, 50, 4), (0, 5, 2), (3, 0, 2)]
HALF_ULP = 2.0**-8
"""Relative error of one rounding to bfloat16."""


def operands(rows, columns, rank, dtype, transposed=False):
    generator = torch.Generator().manual_seed(rows * columns + rank)
    x = torch.randn(rows, columns, generator=generator).to(dtype)
    h = torch.randn(rows, rank, generator=generator).to(dtype)
    shape = (columns, rank) if transposed else (rank, columns)
    a = torch.randn(shape, generator=generator)
    a = a.T if transposed else a
    return x, h, a


def assert_near(got, exact, magnitude, dtype, roundings):
    """`magnitude`: the same product of absolute values, which every rounding of an operand is relative to."""
    unit = HALF_ULP if dtype == torch.bfloat16 else 2.0**-24 * 64
    bound = roundings * unit * magnitude + unit * exact.abs() + 1e-30
    assert ((got.double() - exact).abs() <= 1.01 * bound).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", ODD)
def test_down_and_up(shape, dtype, transposed):
    x, h, a = operands(*shape, dtype, transposed)
    scaled = (a.double() * 0.5, a.double().abs() * 0.5)
    # one rounding of `a`, and of what torch's product keeps between blocks of its sum
    assert_near(pair_down(x, a, 0.5), x.double() @ scaled[0].T, x.double().abs() @ scaled[1].T, dtype, 2)
    y = x.clone()
    pair_up(y, h, a, 0.5)
    magnitude = x.double().abs() + h.double().abs() @ scaled[1]
    assert_near(y, x.double() + h.double() @ scaled[0], magnitude, dtype, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int8])
@pytest.mark.parametrize("shape", ODD)
def test_sums(shape, dtype):
    x, h, _ = operands(*shape, torch.bfloat16 if dtype == torch.int8 else dtype)
    if dtype == torch.int8:
        x = (x.float() * 40).round().clamp(-127, 127).to(torch.int8)
    exact = 0.5 * (h.double().T @ x.double())
    # bfloat16 operands are exact; torch's own path rounds the result to bfloat16
    assert_near(pair_sums(x, h, 0.5), exact, 0.5 * (h.double().abs().T @ x.double().abs()), h.dtype, 1)


def test_an_int8_code_is_exact_in_bfloat16():
    x = torch.arange(-127, 128, dtype=torch.int8)[None]
    assert torch.equal(pair_sums(x, torch.ones(1, 1, dtype=torch.bfloat16))[0], x[0].float())


def test_threads_do_not_change_results():
    x, h, a = operands(130, 80, 16, torch.bfloat16)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        y = x.clone()
        pair_up(y, h, a)
        results.append((pair_down(x, a), y, pair_sums(x, h)))
    torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_columns_of_a_wider_tensor():
    x = torch.randn(9, 40).bfloat16()
    part, a, h = x[:, 8:24], torch.randn(4, 16), torch.randn(9, 4).bfloat16()
    assert torch.equal(pair_down(part, a), pair_down(part.clone(), a))
    assert torch.equal(pair_sums(part, h), pair_sums(part.clone(), h))
    expected = part.clone()
    pair_up(expected, h, a)
    pair_up(part, h, a)
    assert torch.equal(x[:, 8:24], expected)


def test_not_a_number_goes_on():
    x, h, a = operands(5, 20, 3, torch.bfloat16)
    x[2, 7] = torch.nan
    assert pair_down(x, a).isnan().any(1).tolist() == [False, False, True, False, False]
    assert pair_sums(x, h).isnan().any(0).sum() == 1


@pytest.mark.once
def test_operators():
    x, h, a = operands(5, 20, 3, torch.bfloat16)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.intaglio.pair_down, (x, a, 0.5), test_utils=tests)
    torch.library.opcheck(torch.ops.intaglio.pair_up, (x, h, a, 0.5), test_utils=tests)
    torch.library.opcheck(torch.ops.intaglio.pair_sums, (x, h, 0.5), test_utils=tests)


@pytest.mark.once
@pytest.mark.parametrize("name", ["down", "up"])
def test_shapes_that_do_not_meet(name):
    x, h, a = torch.zeros(5, 8), torch.zeros(5, 2), torch.zeros(2, 9)
    with pytest.raises(
        ValueError, match=rf"pair_{name}: x \(5, 8\), h \(5, 2\), a \(2, 9\); expected \(M, C\), \(M, R\)"
    ):
        pair_down(x, a) if name == "down" else pair_up(x, h, a)


def test_autograd_sees_what_is_written():
    w = torch.ones(3, 64, dtype=torch.bfloat16, requires_grad=True)
    x = torch.ones(3, 64).bfloat16()
    y = w * x
    pair_up(x, torch.ones(3, 2).bfloat16(), torch.ones(2, 64))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
