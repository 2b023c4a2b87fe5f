"""Group norm against torch's own in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from intaglio.errors import UserError
from intaglio.kernels.group_norm import group_norm
from intaglio.kernels.group_norm import op as implementation
from intaglio.kernels.row_quantizer import quantize_rows

from .close import assert_near

SHAPES = [(1, 1, 1, 1), (2, 6, 3, 5), (1, 64, 4, 4), (2, 130, 5, 7), (1, 320, 8, 8), (3, 96, 1, 33), (1, 257, 9, 11)]
GROUPS = {1: 1, 6: 3, 64: 32, 130: 13, 320: 32, 96: 1, 257: 257}
DTYPES = [torch.float32, torch.bfloat16, torch.float64]


def case(shape, dtype, seed=0):
    """x, weight, bias and the gradient of y, of `dtype`; the same in float64."""
    make = torch.Generator().manual_seed(seed)
    channels = shape[1]
    x = torch.randn(shape, generator=make) * 2 + torch.randn(channels, 1, 1, generator=make)
    given = [
        x.to(memory_format=torch.channels_last),
        torch.randn(channels, generator=make),
        torch.randn(channels, generator=make),
        torch.randn(shape, generator=make),
    ]
    given = [t.to(dtype).requires_grad_(i < 3) for i, t in enumerate(given)]
    return given, [t.detach().double().requires_grad_(i < 3) for i, t in enumerate(given)]


def run(tensors, groups, silu, function, eps=1e-5, **options):
    x, weight, bias, grad = tensors
    y = function(x, groups, weight, bias, eps, silu=silu, **options)
    return y, torch.autograd.grad(y, (x, weight, bias), grad)


def oracle(x, groups, weight, bias, eps, *, silu):
    y = torch.group_norm(x, groups, weight, bias, eps)
    return F.silu(y) if silu else y


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_and_gradients(shape, dtype, silu):
    given, exact = case(shape, dtype)
    groups = GROUPS[shape[1]]
    (y, grads), (y64, grads64) = run(given, groups, silu, group_norm), run(exact, groups, silu, oracle)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert_near(y, y64)
    for got, expected in zip(grads, grads64, strict=True):
        # a group of one element has rstd 316, which multiplies what float32 leaves of a difference that is 0
        assert_near(got, expected, float32_error=4e-6 if shape[2] > 1 or shape[1] > 1 else 1e-3)


def test_a_mean_far_from_zero():
    """The variance does not drown in the square of the mean."""
    x = torch.randn(1, 8, 16, 16, dtype=torch.float64) + 1000
    y = group_norm(x.float(), 2)
    assert_near(y, torch.group_norm(x.float().double(), 2), float32_error=2e-4)


def test_any_strides():
    x = torch.randn(2, 12, 6, 10)
    for view in (x, x.transpose(2, 3), x[:, ::2], x[..., 1:7], x.to(memory_format=torch.channels_last)[:, :, ::2]):
        y = group_norm(view, 3, silu=True)
        assert_near(y, oracle(view.double(), 3, None, None, 1e-5, silu=True))


def test_saves_the_input_by_reference():
    x = torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    y = group_norm(x, 2, silu=True)
    saved = y.grad_fn.saved_tensors
    assert saved[0].data_ptr() == x.data_ptr()
    assert sum(t.numel() for t in saved[1:] if t is not None) == 8  # mean and rstd of two samples' two groups


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_codes_for_the_gradient(dtype):
    """With `x` as INT8 codes of a pixel the output is the same, and the gradient differs by what the codes lose."""
    given, exact = case((2, 320, 8, 8), dtype)
    y, grads = run(given, 32, True, group_norm, keep="codes")
    assert torch.equal(y, run(given, 32, True, group_norm)[0])
    codes, scale = quantize_rows(given[0].detach().permute(0, 2, 3, 1).reshape(-1, 1, 320))
    saved = group_norm(*given[:1], 32, *given[1:3], keep="codes").grad_fn.saved_tensors
    assert torch.equal(saved[0].view(codes.shape), codes)
    assert torch.equal(saved[1], scale)
    for got, expected in zip(grads, run(exact, 32, True, oracle)[1], strict=True):
        assert (got.double() - expected).norm() < 0.02 * expected.norm()


def test_threads_change_nothing():
    given, _ = case((3, 130, 9, 11), torch.bfloat16)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        y, grads = run(given, 13, True, group_norm)
        results.append((y, *grads))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_checkpointing_and_autocast():
    given, _ = case((2, 64, 4, 4), torch.float32)
    _, grads = run(given, 8, True, group_norm)
    y = checkpoint(lambda *t: group_norm(*t[:1], 8, *t[1:], silu=True), *given[:3], use_reentrant=False)
    assert all(torch.equal(a, b) for a, b in zip(torch.autograd.grad(y, given[:3], given[3]), grads, strict=True))
    with torch.autocast("cpu", torch.bfloat16):
        y = group_norm(given[0].bfloat16(), 8, given[1], given[2])
    assert y.dtype == torch.bfloat16


def test_only_what_is_asked_for():
    given, _ = case((1, 6, 3, 3), torch.float32)
    _, together = run(given, 3, False, group_norm)
    for i in range(3):
        tensors = [t if j == i else t.detach() for j, t in enumerate(given[:3])]
        y = group_norm(tensors[0], 3, tensors[1], tensors[2])
        assert torch.equal(torch.autograd.grad(y, tensors[i], given[3])[0], together[i])
    assert group_norm(given[0].detach(), 3).grad_fn is None


@pytest.mark.once
def test_operators():
    x, mean, rstd, codes = (
        torch.randn(2, 9, 12),
        torch.randn(2, 3),
        torch.rand(2, 3),
        torch.ones(2, 9, 12).to(torch.int8),
    )
    checks = ("test_schema", "test_faketensor")
    for operator, arguments in (
        (implementation.group_norm_operator, (x, torch.ones(12), None, 3, 1e-5, True, True)),
        (implementation.group_norm_gradient, (x, x, None, mean, rstd, torch.ones(12), None, True, True)),
        (
            implementation.group_norm_gradient,
            (x, codes, torch.rand(18), mean, rstd, None, None, True, False),
        ),
    ):
        torch.library.opcheck(operator.operator, arguments, test_utils=checks)


@pytest.mark.once
def test_what_is_refused():
    x = torch.randn(1, 6, 2, 2)
    for call in (
        lambda: group_norm(x[0], 2),
        lambda: group_norm(x, 4),
        lambda: group_norm(x, 2, torch.ones(5)),
        lambda: group_norm(x.int(), 2),
    ):
        with pytest.raises(ValueError, match=r"expected float \(B, C, H, W\) with C a multiple of groups"):
            call()
    with pytest.raises(UserError, match="keep"):
        group_norm(x, 2, keep="nothing")


@pytest.mark.parametrize("keep", ["input", "codes"])
@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 4, 3, 0)])
def test_no_pixels(shape, keep):
    x = torch.randn(shape, requires_grad=True)
    group_norm(x, 2, keep=keep).sum().backward()
    assert x.grad.shape == shape
