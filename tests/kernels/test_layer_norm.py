"""Layer norm against torch's own in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from intaglio.kernels.layer_norm import layer_norm
from intaglio.kernels.layer_norm import op as implementation
from intaglio.kernels.row_quantizer import quantize_rows

from .close import assert_near

SHAPES = [(1, 2), (3, 7), (2, 5, 64), (4, 65), (2, 3, 320), (5, 1031), (0, 8)]
DTYPES = [torch.float32, torch.bfloat16, torch.float64]


def case(shape, dtype):
    make = torch.Generator().manual_seed(1)
    columns = shape[-1]
    x, grad = torch.randn(shape, generator=make) * 2 + 1, torch.randn(shape, generator=make)
    given = [x, *torch.randn(2, columns, generator=make), grad]
    given = [t.to(dtype).requires_grad_(i < 3) for i, t in enumerate(given)]
    return given, [t.detach().double().requires_grad_(i < 3) for i, t in enumerate(given)]


def run(tensors, function, **options):
    x, weight, bias, grad = tensors
    y = function(x, weight, bias, 1e-5, **options)
    return y, torch.autograd.grad(y, (x, weight, bias), grad)


def oracle(x, weight, bias, eps):
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_and_gradients(shape, dtype):
    given, exact = case(shape, dtype)
    (y, grads), (y64, grads64) = run(given, layer_norm), run(exact, oracle)
    assert y.dtype == dtype
    assert_near(y, y64)
    for got, expected in zip(grads, grads64, strict=True):
        # of two columns little but rounding is left, times an rstd of any size
        assert_near(got, expected, float32_error=4e-6 if shape[-1] > 2 else 1e-4)


def test_a_mean_far_from_zero():
    x = torch.randn(4, 320, dtype=torch.float64) + 1000
    assert_near(layer_norm(x.float()), F.layer_norm(x.float().double(), (320,)), float32_error=2e-4)


def test_any_strides():
    x = torch.randn(4, 6, 40)
    for view in (x.transpose(0, 1), x[..., ::2], x[:, 1:3], x.expand(2, 4, 6, 40)):
        assert_near(layer_norm(view), F.layer_norm(view.double(), view.shape[-1:]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_codes_for_the_gradient(dtype):
    given, exact = case((50, 320), dtype)
    y, grads = run(given, layer_norm, keep="codes")
    assert torch.equal(y, run(given, layer_norm)[0])
    saved = layer_norm(*given[:3], keep="codes").grad_fn.saved_tensors
    codes, scale = quantize_rows(given[0].detach()[:, None])
    assert torch.equal(saved[0], codes[:, 0])
    assert torch.equal(saved[1], scale)
    for got, expected in zip(grads, run(exact, oracle)[1], strict=True):
        assert (got.double() - expected).norm() < 0.02 * expected.norm()


def test_threads_change_nothing():
    given, _ = case((33, 130), torch.bfloat16)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        y, grads = run(given, layer_norm)
        results.append((y, grads[0]))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_checkpointing_and_autocast():
    given, _ = case((6, 64), torch.float32)
    _, grads = run(given, layer_norm)
    y = checkpoint(layer_norm, *given[:3], use_reentrant=False)
    assert all(torch.equal(a, b) for a, b in zip(torch.autograd.grad(y, given[:3], given[3]), grads, strict=True))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer_norm(given[0].bfloat16(), given[1], given[2]).dtype == torch.bfloat16


@pytest.mark.once
def test_operators():
    x, mean = torch.randn(9, 12), torch.randn(9)
    checks = ("test_schema", "test_faketensor")
    for operator, arguments in (
        (implementation.layer_norm_operator, (x, torch.ones(12), None, 1e-5, True)),
        (implementation.layer_norm_gradient, (x, x, None, mean, mean.abs() + 1, torch.ones(12))),
        (implementation.layer_norm_gradient, (x, x.to(torch.int8), torch.rand(9), mean, mean.abs() + 1, None)),
    ):
        torch.library.opcheck(operator.operator, arguments, test_utils=checks)


@pytest.mark.once
def test_what_is_refused():
    x = torch.randn(3, 6)
    for call in (lambda: layer_norm(x, torch.ones(3)), lambda: layer_norm(x.int()), lambda: layer_norm(x[0, 0])):
        with pytest.raises(ValueError, match=r"expected float \(\.\.\., C\), and \(C,\) twice or None"):
            call()


@pytest.mark.parametrize("keep", ["input", "codes"])
def test_no_rows(keep):
    x = torch.randn(0, 4, requires_grad=True)
    layer_norm(x, keep=keep).sum().backward()
    assert x.grad.shape == (0, 4)
