"""Every path equals the definition bit for bit, the float epilogue too: both write the same operations in the same
order. Ranks and sizes that are odd come first."""

import itertools

import pytest
import torch

from intaglio.kernels.codes import codes_by_column, codes_by_group
from intaglio.kernels.low_rank import low_rank_update, rank_product, token_gradient
from intaglio.kernels.low_rank import reference as definition
from intaglio.quantizers.activations import quantize_columns, quantize_groups

SHAPES = [
    (1, 1, 1, 1), (2, 3, 1, 5), (7, 13, 3, 17), (5, 64, 4, 16), (33, 31, 8, 48), (65, 320, 16, 33), (19, 127, 17, 15),
    (130, 65, 32, 70), (3, 1025, 5, 9), (0, 4, 2, 3), (4, 8, 2, 0),
]  # fmt: skip
KINDS = list(itertools.product((8, 4), (False, True)))


def codes(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-128, 128, (rows, columns), dtype=torch.int8, generator=generator)


def scales(count, power_of_two, seed):
    generator = torch.Generator().manual_seed(seed)
    if power_of_two:
        return torch.exp2(torch.randint(-12, 4, (count,), generator=generator).float())
    return 10 ** (4 * torch.rand(count, generator=generator) - 3)


def divisors(rows):
    return sorted({1, rows} | ({rows // 2} if rows % 2 == 0 else set()))


@pytest.mark.once("avx512")
@pytest.mark.parametrize(("bits", "power_of_two"), KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_update_equals_the_definition(shape, bits, power_of_two):
    m, c, r, o = shape
    x, a, b = codes(m, c, 1), codes(r, c, 2), codes(o, r, 3)
    for groups, dtype, columns in itertools.product(
        [g for g in divisors(m) if g], (torch.float32, torch.bfloat16), (None, scales(o, False, 4))
    ):
        row, first, second = (scales(n, power_of_two, 5 + n) for n in (groups, r, r))
        out = torch.randn(m, o, generator=torch.Generator().manual_seed(9)).to(dtype)
        expected = out.clone()
        h, _ = definition.update(expected, x, a, b, row, first, second, columns, bits, power_of_two)
        for one, two in ((a, b), (a.T.contiguous().T, b.T.contiguous().T)):
            got = out.clone()
            how = {"row_scale": row, "first_scale": first, "second_scale": second, "column_scale": columns}
            assert torch.equal(low_rank_update(got, x, one, two, bits=bits, power_of_two=power_of_two, **how), h)
            assert torch.equal(got, expected)
            assert torch.equal(rank_product(x, one), h)


@pytest.mark.once("avx512")
@pytest.mark.parametrize(("bits", "power_of_two"), KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_gradient_equals_the_definition(shape, bits, power_of_two):
    m, c, r, _ = shape
    h = torch.randint(-(2**31), 2**31, (m, r), generator=torch.Generator().manual_seed(1)).to(torch.int32)
    right = codes(m, c, 2)
    for groups, seed, divisor in itertools.product(
        [g for g in divisors(m) if g], (None, torch.tensor(77)), (None, scales(c, False, 3))
    ):
        left, other, rank = (scales(n, power_of_two, 4 + n) for n in (groups, groups, r))
        expected = definition.gradient(h, left, other, rank, right, divisor, 0.3, bits, power_of_two, seed, False)
        how = {"left_scale": left, "right_scale": other, "rank_scale": rank, "divisor": divisor, "seed": seed}
        how |= {"bits": bits, "power_of_two": power_of_two, "multiplier": 0.3}
        assert torch.equal(token_gradient(h, right, **how), expected)
        got = token_gradient(h, right, transposed=True, **how)
        assert got.is_contiguous()
        assert torch.equal(got.T, expected)


@pytest.mark.once("avx512")
@pytest.mark.parametrize(("bits", "power_of_two"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 31), (16, 64), (6, 1000), (0, 3), (3, 0)], ids=str)
def test_codes_equal_the_definition(shape, dtype, bits, power_of_two):
    rows, columns = shape
    wide = (torch.randn(rows, columns + 3) * torch.logspace(-20, 20, rows)[:, None]).to(dtype)
    x = wide[:, 1 : 1 + columns]
    for seed in (None, torch.tensor(5)):
        how = {"power_of_two": power_of_two, "seed": seed}
        for factor, groups in itertools.product((None, scales(columns, False, 1)), divisors(rows)):
            if not x.numel() or not groups:
                continue
            values = x.float() if factor is None else x.float() * factor
            got = codes_by_group(x, bits, groups, factor_C=factor, **how)
            assert all(map(torch.equal, got, quantize_groups(values, bits, groups, **how)))
        for divisor in (None, scales(rows, False, 2)):
            if not x.numel():
                continue
            values = x.float() if divisor is None else x.float() / divisor[:, None]
            got = codes_by_column(x, bits, divisor_R=divisor, **how)
            assert all(map(torch.equal, got, quantize_columns(values, bits, **how)))
    for call in (
        codes_by_column(x, bits, power_of_two=power_of_two),
        codes_by_group(x, bits, rows, power_of_two=power_of_two),
    ):
        assert call[0].shape == x.shape


@pytest.mark.parametrize("power_of_two", [False, True])
def test_extreme_numbers(power_of_two):
    """Zeros, subnormal numbers, the largest there are, and a single value among zeros."""
    tiny, top = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
    x = torch.tensor([[0.0, 0, 0], [tiny / 8, -tiny, tiny], [top, -top, 1], [0, 0, -127], [127.49, 126.5, -0.5]])
    for bits, groups in ((8, 5), (2, 5), (8, 1)):
        got = codes_by_group(x, bits, groups, power_of_two=power_of_two)
        assert all(map(torch.equal, got, quantize_groups(x, bits, groups, power_of_two=power_of_two)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("power_of_two", [False, True])
def test_what_is_not_finite_shows_in_the_scale(value, power_of_two):
    x = torch.randn(4, 9)
    x[2, 5] = value
    _, scale = codes_by_group(x, 8, 4, power_of_two=power_of_two)
    assert torch.isfinite(scale).flatten().tolist() == [True, True, False, True]
    _, scale = codes_by_column(x, 8, power_of_two=power_of_two)
    assert torch.isfinite(scale).flatten().tolist() == [c != 5 for c in range(9)]
    row = torch.tensor([1.0, float("nan"), 1.0, 1.0])
    out, h = torch.zeros(4, 3), torch.ones(4, 2, dtype=torch.int32)
    pair = {"first_scale": torch.ones(2), "second_scale": torch.ones(2), "bits": 8, "power_of_two": power_of_two}
    low_rank_update(out, codes(4, 9, 1), codes(2, 9, 2), codes(3, 2, 3), row_scale=row, column_scale=None, **pair)
    assert out.isnan().any(1).tolist() == [False, True, False, False]
    how = {"rank_scale": torch.ones(2), "bits": 8, "power_of_two": power_of_two}
    assert not token_gradient(h, codes(4, 3, 1), left_scale=row, right_scale=torch.ones(4), **how).isfinite().any()


@pytest.mark.once
def test_what_is_refused():
    x, a, b = codes(4, 8, 1), codes(2, 8, 2), codes(3, 2, 3)
    ones = {"first_scale": torch.ones(2), "second_scale": torch.ones(2), "column_scale": None, "bits": 8}
    for call, message in (
        (lambda: rank_product(x, b), "x (4, 8) and w (3, 2) do not meet"),
        (
            lambda: low_rank_update(torch.zeros(4, 2), x, a, b, row_scale=torch.ones(4), power_of_two=False, **ones),
            "low_rank_update: x (4, 8), first (2, 8), second (3, 2), out (4, 2), 4 row scales; expected (M, C)",
        ),
        (
            lambda: low_rank_update(torch.zeros(4, 3), x, a, b, row_scale=torch.ones(3), power_of_two=False, **ones),
            "3 row scales; expected",
        ),
        (
            lambda: token_gradient(
                torch.zeros(3, 2, dtype=torch.int32), x, left_scale=torch.ones(1), right_scale=torch.ones(1),
                rank_scale=torch.ones(2), bits=8, power_of_two=False,
            ),
            "token_gradient: h torch.int32 (3, 2), right torch.int8 (4, 8)",
        ),
        (
            lambda: token_gradient(
                torch.zeros(4, 2, dtype=torch.int32), x, left_scale=torch.ones(3), right_scale=torch.ones(3),
                rank_scale=torch.ones(2), bits=8, power_of_two=False,
            ),
            "for 4 rows of rank 2 by 8 columns; expected one for each of equal runs of rows",
        ),
        (
            lambda: token_gradient(
                torch.zeros(4, 2, dtype=torch.int32), x, left_scale=torch.ones(4), right_scale=torch.ones(4),
                rank_scale=torch.ones(2), bits=8, power_of_two=False, divisor=torch.ones(2),
            ),
            "divisor [(4,), (4,), (2,), (2,)]",
        ),
        (
            lambda: low_rank_update(
                torch.zeros(4, 3), x, a, b, row_scale=torch.ones(4), power_of_two=False,
                **(ones | {"first_scale": torch.ones(1)}),
            ),
            "expected torch.int8, 2 scales twice and 3",
        ),
        (
            lambda: low_rank_update(
                torch.zeros(3).expand(4, 3), x, a, b, row_scale=torch.ones(4), power_of_two=False, **ones
            ),
            "low_rank_update: x (4, 8)",
        ),
        (lambda: codes_by_group(torch.zeros(3, 2), 9, 3, power_of_two=False), "codes of 9 bits; expected 2 .. 8"),
        (lambda: codes_by_column(torch.zeros(3, 2), 1, power_of_two=False), "codes of 1 bits; expected 2 .. 8"),
        (lambda: codes_by_group(torch.zeros(3, 2), 8, 2, power_of_two=False), "x (3, 2) in 2 groups"),
        (lambda: codes_by_column(torch.zeros(3, 2), 8, power_of_two=False, divisor_R=torch.ones(2)), "divisor (2,)"),
    ):  # fmt: skip
        with pytest.raises(ValueError) as caught:
            call()
        assert message in str(caught.value)
