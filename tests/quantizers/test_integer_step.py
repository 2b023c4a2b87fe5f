"""The NumPy definition of a step: by hand, against exact fractions, and the torch quantizers against it."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fresh_interpreter import modules_after
from intaglio.kernels.int8_matmul import MAX_REDUCTION as KERNEL_BOUND
from intaglio.quantizers import activations
from intaglio.quantizers import integer_step as step
from intaglio.quantizers.window import Window

INT32 = st.integers(-(2**31) + 1, 2**31 - 1)
SEEDS = st.one_of(st.none(), st.integers(0, 2**32 - 1))


def exact_codes(values, exponent, bits, groups, seed):
    """The same codes from exact fractions, one at a time."""
    rows, columns = values.shape
    exponent = np.broadcast_to(exponent, values.shape)
    real = [[int(values[m, c]) * Fraction(2) ** int(exponent[m, c]) for c in range(columns)] for m in range(rows)]
    dither = np.zeros(values.shape, int) if seed is None else step.dither(values.shape, seed)
    codes, exponents = np.zeros(values.shape, int), np.zeros(values.shape, int)
    for m, c in np.ndindex(values.shape):
        size = rows if groups is None else rows // groups
        sharing = range(rows) if groups is None else range(m // size * size, (m // size + 1) * size)
        most = max(abs(real[i][j]) for i in sharing for j in ([c] if groups is None else range(columns)))
        e = 0
        if most:
            e = most.numerator.bit_length() - most.denominator.bit_length() - bits - 1  # too fine
            while most > step.max_code(bits) * Fraction(2) ** e:
                e += 1
        scaled = real[m][c] / Fraction(2) ** e
        # Python rounds a Fraction half to even
        code = round(scaled) if seed is None else floor(scaled + Fraction(int(dither[m, c]), 2**16))
        codes[m, c], exponents[m, c] = min(code, step.max_code(bits)), e
    return codes, exponents


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_requantize_equals_exact_fractions(data):
    rows, columns = data.draw(st.sampled_from([(1, 1), (3, 2), (4, 5), (6, 1)]))
    groups = data.draw(st.sampled_from([None, 1, rows]))
    bits, seed = data.draw(st.integers(2, 8)), data.draw(SEEDS)
    numbers = st.one_of(st.integers(-300, 300), INT32)
    values = np.array(data.draw(st.lists(numbers, min_size=rows * columns, max_size=rows * columns)))
    values = values.reshape(rows, columns).astype(np.int32)
    by_row = np.array(data.draw(st.lists(st.integers(-40, 20), min_size=rows, max_size=rows)))[:, None]
    by_column = np.array(data.draw(st.lists(st.integers(-30, 9), min_size=columns, max_size=columns)))
    exponent = by_row + by_column
    got = step.requantize(values, exponent, bits, groups, seed)
    codes, exponents = exact_codes(values, exponent, bits, groups, seed)
    assert np.array_equal(got.codes, codes)
    assert np.array_equal(np.broadcast_to(got.exponent, codes.shape), exponents)

    real = torch.from_numpy(values).double() * torch.from_numpy(np.exp2(exponent.astype(np.float64)))
    seed = None if seed is None else torch.tensor(seed)
    if groups is None:
        fast, scale = activations.quantize_columns(real, bits, power_of_two=True, seed=seed)
    else:
        fast, scale = activations.quantize_groups(real, bits, groups, power_of_two=True, seed=seed)
        scale = scale.repeat_interleave(rows // groups, 0)
    assert np.array_equal(fast.numpy(), codes)
    assert np.array_equal(scale.log2().broadcast_to(codes.shape).numpy(), exponents)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_quantize_equals_the_fast_path(data):
    rows, columns = data.draw(st.sampled_from([(1, 1), (2, 3), (4, 5)]))
    bits, groups = data.draw(st.integers(2, 8)), data.draw(st.sampled_from([1, rows]))
    seed = data.draw(SEEDS)
    floats = st.floats(-(2.0**100), 2.0**100, width=32)
    values = np.array(data.draw(st.lists(floats, min_size=rows * columns, max_size=rows * columns)), np.float32)
    values = values.reshape(rows, columns)
    defined = step.quantize(values, bits, groups, seed)
    codes, scale = activations.quantize_groups(
        torch.from_numpy(values), bits, groups, power_of_two=True, seed=None if seed is None else torch.tensor(seed)
    )
    assert np.array_equal(codes.numpy(), defined.codes)
    assert np.array_equal(scale.repeat_interleave(rows // groups, 0).numpy(), np.exp2(defined.exponent))
    within = np.abs(values) <= step.max_code(bits) * np.exp2(defined.exponent.astype(np.float64))
    assert within.all(), "no value saturates"
    error = np.abs(defined.codes * np.exp2(defined.exponent.astype(np.float64)) - values)
    assert (error <= np.exp2(defined.exponent.astype(np.float64)) * (0.5 if seed is None else 1)).all()


def test_requantize_by_hand():
    """Rows (300, -5), (0, 0), (127, 1): 300 / 127 needs 2^2; 300 / 4 = 75, -5 / 4 = -1.25 -> -1; 127 fits as it is."""
    got = step.requantize(np.array([[300, -5], [0, 0], [127, 1]], np.int32), np.zeros((1, 1), int), 8, 3)
    assert got.codes.tolist() == [[75, -1], [0, 0], [127, 1]]
    assert got.exponent.ravel().tolist() == [2, 0, 0]


def test_dither_is_uniform_and_equal():
    numbers = step.dither((256, 256), 7)
    fast = activations.dither(torch.Size([256, 256]), torch.tensor(7))
    assert np.array_equal(numbers, fast.numpy())
    counts = np.bincount(numbers.ravel() // 256, minlength=256)
    # 65,536 draws into 256 cells: chi-square has mean 255 and standard deviation sqrt(510)
    assert abs(((counts - 256) ** 2 / 256).sum() - 255) < 5 * 510**0.5
    assert not np.array_equal(numbers, step.dither((256, 256), 8))


@pytest.mark.parametrize("power_of_two", [False, True])
def test_stochastic_rounding_has_no_bias(power_of_two):
    values = torch.full((1, 20000), 0.3)
    values[0, 0] = 127.0
    codes, scale = activations.quantize_groups(values, 8, 1, power_of_two=power_of_two, seed=torch.tensor(3))
    mean = (codes[0, 1:] * scale[0]).double().mean().item()
    # the standard error of 20,000 draws of a variable that is 0 or 1 with probability 0.3
    assert abs(mean - 0.3) < 5 * (0.3 * 0.7 / 20000) ** 0.5


def test_the_seed_is_the_same_everywhere():
    gradient = torch.randn(7, 5)
    assert activations.seed_of(gradient).item() == step.seed_of(gradient.numpy())


def test_no_sum_overflows_at_the_bound():
    assert step.MAX_REDUCTION == KERNEL_BOUND
    extreme = np.full((1, step.MAX_REDUCTION), -128, np.int8)
    assert step.product(extreme, extreme.T).item() == step.MAX_REDUCTION * 128**2 <= 2**31 - 1
    assert (step.MAX_REDUCTION + 1) * 128**2 > 2**31 - 1
    with pytest.raises(ValueError, match="sums 131072 terms could overflow INT32; expected at most 131071"):
        step.product(np.zeros((1, 131072), np.int8), np.zeros((131072, 1), np.int8))


def test_what_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="2 of 4 values are not finite"):
        step.quantize(np.array([[1, np.nan], [np.inf, 0]], np.float32), 8, 2)


def test_fold_is_the_transpose_of_unfold():
    rng = np.random.default_rng(0)
    how = Window((3, 2), (2, 1), (1, 2), (1, 2))
    x = rng.integers(-9, 9, (2, 5, 6, 3)).astype(np.int8)
    rows = step.unfold(x, how)
    g = rng.integers(-9, 9, rows.shape).astype(np.int32)
    assert (rows * g).sum() == (x * step.fold(g, x.shape, how)).sum()


def test_the_definition_imports_no_torch():
    loaded = modules_after("import intaglio.quantizers.integer_step")
    assert "intaglio.quantizers.integer_step" in loaded
    assert "torch" not in loaded
