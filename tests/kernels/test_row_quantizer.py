"""The quantizer against a NumPy loop, bit for bit."""

import numpy as np
import pytest
import torch

from intaglio.kernels.row_quantizer import dequantize_rows, quantize_rows
from intaglio.kernels.row_quantizer.reference import SMALLEST, round_rows

SHAPES = [(1, 1, 1), (3, 1, 7), (5, 1, 64), (2, 9, 33), (4, 6, 127), (2, 100, 320), (1, 1, 1031), (0, 1, 4)]
SHAPES += [(2, 300, 257), (1, 5000, 65), (3, 0, 4), (2, 3, 0), (7, 1, 128), (3, 2, 191), (14, 1, 70), (18, 5, 129)]
SHAPES += [(2, 1, 513), (9, 1, 577), (6, 1, 1300), (15, 1, 512)]


def slow(x, factor):
    """One group at a time, in float32 throughout."""
    x = x.float().numpy()
    codes, scales = np.zeros(x.shape, np.int8), np.ones(len(x), np.float32)
    for g, rows in enumerate(x):
        v = rows if factor is None else rows * factor[g * len(factor) // len(x)].numpy()
        top = np.abs(v).max() if v.size else np.float32(0)
        if not np.isfinite(top):
            scales[g] = np.nan
        elif top >= SMALLEST:
            scales[g] = top / np.float32(127)
            codes[g] = np.clip(np.rint(v * (np.float32(127) / top)), -127, 127)
    return torch.from_numpy(codes), torch.from_numpy(scales)


def assert_same(x, factor=None):
    got, expected = quantize_rows(x, factor), slow(x, factor)
    assert torch.equal(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_loop(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert_same(x)
    assert_same(x.bfloat16())
    for samples in {1, 2, shape[0]} - {0}:
        if shape[0] % samples:
            continue
        factor = torch.rand(samples, shape[2]) + 0.5
        assert_same(x, factor)
        assert_same(x.bfloat16(), factor)


def test_odd_values():
    """Ties, zero, what is too small to divide by, the largest float, what is not finite."""
    rows = [
        [127.0, 0.5, 1.5, -0.5, -2.5],
        [0.0, -0.0, 0.0, 0.0, 0.0],
        [SMALLEST / 2, -SMALLEST / 4, 0.0, 0.0, 1e-45],
        [SMALLEST, -SMALLEST / 127, 0.0, 0.0, 0.0],
        [3.4e38, -3.4e38, 1e38, 1.0, 0.0],
        [1.0, float("inf"), 0.0, 0.0, 0.0],
        [1.0, float("nan"), 0.0, 0.0, 0.0],
    ]
    x = torch.tensor(rows)[:, None]
    for other in (
        x,
        x.flip(0),
        x.repeat(1, 1, 30),
        x.flip(0).repeat(1, 1, 30),
        x.repeat(1, 1, 150),
        x.repeat(1, 3, 30),
    ):
        assert_same(other)
        assert_same(other.bfloat16())
        assert_same(other, torch.ones(1, other.shape[2]))
    codes, scale = quantize_rows(x)
    assert codes[0, 0].tolist() == [127, 0, 2, 0, -2]
    assert scale[1:3].tolist() == [1.0, 1.0]
    assert torch.isnan(scale[5:]).all()
    assert not codes[5:].any()


def test_strides():
    wide = torch.randn(12, 10, 34)
    for x in (
        wide[:, :1, 1:33],
        wide.transpose(0, 1),
        wide.transpose(1, 2),
        wide[::2, ::3],
        wide[:1].expand(4, 10, 34),
        wide[:, 1:9].permute(0, 2, 1),  # a picture with channels first
        wide.view(3, 4, 10, 34)[:, 1],
    ):
        assert_same(x)
        assert_same(x.bfloat16(), torch.rand(1, x.shape[2]))


def test_the_error_is_half_a_step():
    x = torch.randn(50, 3, 40)
    codes, scale = quantize_rows(x)
    # half a step, and the roundings of x * (127 / m), of m / 127 and of codes * scale, at most 127 steps each
    bound = scale[:, None, None] * (0.5 + 127 * 4 * 2.0**-24)
    assert ((dequantize_rows(codes, scale) - x).abs() <= bound).all()


@pytest.mark.parametrize("shape", [(64, 1, 333), (67, 1, 600), (5, 1, 64), (1, 900, 130), (3, 301, 128)], ids=str)
def test_threads_change_nothing(shape):
    x = torch.randn(shape)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(quantize_rows(x))
    torch.set_num_threads(before)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.once
def test_what_is_refused():
    with pytest.raises(ValueError, match=r"x \(4, 5\) with factor None; expected \(groups, rows, columns\)"):
        quantize_rows(torch.zeros(4, 5))
    with pytest.raises(ValueError, match=r"x \(4, 1, 5\) with factor \(3, 5\)"):
        quantize_rows(torch.zeros(4, 1, 5), torch.ones(3, 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("columns", [63, 64, 331])
def test_factors_of_either_sign_and_a_product_that_is_no_number(dtype, columns):
    """0 * inf is a NaN whose sign bit is set on x86: still what is not finite."""
    x, factor = torch.randn(11, 1, columns).to(dtype), torch.randn(1, columns)
    x[3, 0, columns - 1], factor[0, columns - 1] = torch.inf, 0.0
    codes, scale = quantize_rows(x, factor)
    expected_codes, expected_scale = round_rows(x, factor)
    assert torch.equal(codes, expected_codes)
    torch.testing.assert_close(scale, expected_scale, rtol=0, atol=0, equal_nan=True)
    assert scale.isnan().tolist() == [row == 3 for row in range(11)]
    with pytest.raises(ValueError, match=r"x \(4, 1, 5\) with factor \(0, 5\)"):
        quantize_rows(torch.zeros(4, 1, 5), torch.ones(0, 5))
