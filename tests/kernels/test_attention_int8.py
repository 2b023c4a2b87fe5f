"""Attention with INT8 products, compiled or by its definition, against float64 on the same codes."""

import pytest
import torch

from intaglio.kernels.attention import attention, op
from intaglio.kernels.attention.reference import attend, attend_int8
from intaglio.kernels.row_quantizer import dequantize_rows, quantize_rows

SHAPES = [  # batch, heads, queries, keys, head_dim
    (1, 1, 1, 1, 1), (1, 2, 3, 5, 7), (2, 3, 17, 33, 40), (1, 2, 100, 77, 40), (1, 1, 257, 231, 80),
    (1, 1, 64, 64, 160), (1, 2, 130, 500, 64), (1, 1, 31, 15, 256), (1, 1, 1, 401, 33), (1, 1, 227, 1, 17),
]  # fmt: skip
U16, U32, EXP2 = 2.0**-8, 2.0**-23, 2.6e-6


def operands(shape, seed=0):
    batch, heads, queries, keys, head_dim = shape
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(batch, t, heads, head_dim, generator=generator) for t in (queries, keys, keys, queries)]
    return [x.bfloat16().transpose(1, 2) for x in made]


def as_codes(x):
    """float64: what rounding the last axis to INT8 leaves of x."""
    codes, scale = quantize_rows(x.reshape(-1, 1, x.shape[-1]))
    return dequantize_rows(codes.double(), scale.double()).view(x.shape)


def exact(q, k, v, scale):
    """The result with weights that are not rounded; |error| for a 255th in every weight: at worst, typically."""
    q, k, v = as_codes(q), as_codes(k), as_codes(v.mT).mT
    out, lse = attend(q, k, v, scale)
    total = (lse - (scale * (q @ k.mT)).amax(-1)).exp()[..., None]
    ones = torch.ones(q.shape[2], k.shape[2], dtype=torch.float64)
    return out, lse, ones @ v.abs() / (255 * total), (ones @ v.square()).sqrt() / (255 * total)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_errs_by_half_a_255th_of_each_weight(shape):
    """The bound, and the root mean square that independent roundings have: sqrt(1 / 12) of a step each."""
    q, k, v, _ = operands(shape)
    scale = shape[4] ** -0.5
    got, lse = op.attention_operator(q, k, v, scale, True)
    out, exact_lse, worst, typical = exact(q, k, v, scale)
    # a score errs by a few roundings to float32 of numbers up to its row's largest
    w = EXP2 + 8 * U32 * (
        1 + exact_lse.abs().amax() + (scale * q.double().norm(dim=-1).amax() * k.double().norm(dim=-1).amax())
    )
    error = (got.double() - out).abs()
    assert (error <= (0.5 + 255 * w) * worst + U16 * out.abs() + 1e-30).all()
    expected = (typical.square() / 12 + (U16 * out).square() / 3).sum()
    assert error.square().sum() <= 1.3**2 * expected + 1e-12
    assert (lse - exact_lse).abs().max() <= 2 * w


def test_codes_are_taken_as_they_are():
    """Operands that INT8 holds: only the weights are rounded, and where all scores are equal not even these."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randint(-127, 128, (1, 2, 48, 24), generator=generator).bfloat16() for _ in range(3))
    q[..., 0], k[..., 0], v[:, :, 0] = 127, 127, 127
    out = op.attention_operator(q, k, v, 0.0, True)[0]
    assert torch.equal(out, v.double().mean(2, keepdim=True).expand(1, 2, 48, 24).bfloat16())


def test_the_definition_is_that_of_the_operator():
    """In float64, against the float32 or the compiled path: both round the weights, so they differ by few codes."""
    q, k, v, _ = operands((1, 2, 40, 50, 16))
    out, lse = attend_int8(*(x.double() for x in (q, k, v)), 0.25)
    got, got_lse = op.attention_operator(q, k, v, 0.25, True)
    assert (got - out).norm() / out.norm() < 2 * U16 / 3**0.5
    torch.testing.assert_close(got_lse.double(), lse, atol=1e-5, rtol=0)


def test_the_gradient_is_that_of_float(path):
    """At the result and the normalizer that were kept."""
    q, k, v, grad = operands((1, 2, 50, 60, 16))
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    gradients = torch.autograd.grad(attention(*leaves, int8=True), leaves, grad)
    leaves = [x.detach().double().requires_grad_() for x in (q, k, v)]
    expected = torch.autograd.grad(attention(*leaves), leaves, grad.double())
    for got, wanted in zip(gradients, expected, strict=True):
        assert (got - wanted).norm() / wanted.norm() < 0.03  # scores of INT8 operands err by about 1 %


def test_threads_and_strides_change_nothing():
    q, k, v, _ = operands((1, 3, 150, 301, 24))
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(attention(q, k, v, int8=True))
        results.append(attention(*(x.contiguous() for x in (q, k, v)), int8=True))
    torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])
    assert results[0].transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_goes_on(bad):
    """A query spoils its row, a key everything, a value its channel."""
    for which in range(3):
        arguments = operands((1, 1, 40, 130, 16))[:3]
        arguments[which][0, 0, 5, 3] = bad
        spoiled = attention(*arguments, int8=True).isnan()[0, 0]
        expected = torch.zeros(40, 16, dtype=torch.bool)
        expected[(slice(5, 6), slice(None), (slice(None), 3))[which]] = True
        assert torch.equal(spoiled, expected)


@pytest.mark.once
def test_what_is_refused():
    q = torch.zeros(1, 1, 2, 4)
    with pytest.raises(
        ValueError, match=r"attention in INT8: scale -1.0, q \(1, 1, 2, 4\); expected a scale of 0 or more"
    ):
        attention(q, q, q, -1.0, int8=True)
