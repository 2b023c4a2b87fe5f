"""The activations against torch's own in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from intaglio.errors import UnknownChoice
from intaglio.kernels.gated import FUNCTIONS, activation, gated_activation
from intaglio.kernels.gated.op import gated_gradient as _gated_grad
from intaglio.kernels.gated.op import gated_operator as _gated
from intaglio.kernels.row_quantizer import quantize_rows

from .close import assert_near

ORACLES = {"gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "silu": F.silu}
SHAPES = [(1, 1), (3, 7), (2, 5, 64), (4, 65), (2, 1280), (0, 8), (2, 0)]
DTYPES = [torch.float32, torch.bfloat16, torch.float64]


def oracle(x, function, gated):
    if not gated:
        return ORACLES[function](x)
    a, g = x.chunk(2, dim=-1)
    return a * ORACLES[function](g)


def ours(x, function, gated, keep):
    return (gated_activation if gated else activation)(x, function, keep=keep)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_and_gradient(shape, dtype, function, gated):
    x = (torch.randn(*shape[:-1], shape[-1] * (1 + gated)) * 3).to(dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    grad = torch.randn(shape).to(dtype)
    y, y64 = ours(x, function, gated, "input"), oracle(exact, function, gated)
    assert y.dtype == dtype
    assert_near(y, y64)
    (got,), (expected,) = torch.autograd.grad(y, x, grad), torch.autograd.grad(y64, exact, grad.double())
    assert_near(got, expected)
    assert torch.equal(ours(x, function, gated, "codes"), y)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_size_of_argument(function):
    """Error under 1e-6 of the argument from -30 to 30, and nothing but finite numbers far out."""
    x = torch.linspace(-30, 30, 200_001, requires_grad=True)
    y = activation(x, function, keep="input")
    exact = x.detach().double().requires_grad_()
    y64 = ORACLES[function](exact)
    assert ((y.double() - y64).abs() <= 1e-6 * exact.abs().clamp(min=1)).all()
    got, expected = torch.autograd.grad(y.sum(), x)[0], torch.autograd.grad(y64.sum(), exact)[0]
    assert ((got.double() - expected).abs() <= 1e-5).all()
    far = torch.tensor([-1e10, -1e4, -300.0, 300.0, 1e4, 1e10], requires_grad=True)
    y = activation(far, function, keep="input")
    for got, expected in (
        (y, torch.tensor([0.0, 0.0, 0.0, 300.0, 1e4, 1e10])),
        (torch.autograd.grad(y.sum(), far)[0], torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])),
    ):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-20)
    assert torch.isnan(activation(torch.tensor([float("nan")]), function)).all()


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_codes_for_the_gradient(dtype, gated):
    """The gradient is that of the pre-activation as its codes have it: half a step of the row away, at most."""
    x = torch.randn(64, 640 * (1 + gated)).to(dtype).requires_grad_()
    grad = torch.randn(64, 640).to(dtype)
    y = ours(x, "gelu", gated, "codes")
    saved = y.grad_fn.saved_tensors
    codes, scale = quantize_rows(x.detach().view(-1, 1, 640))
    assert torch.equal(saved[0].view(codes.shape), codes)
    assert torch.equal(saved[1], scale)
    exact = x.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(oracle(exact, "gelu", gated), exact, grad.double())
    (got,) = torch.autograd.grad(y, x, grad)
    assert (got.double() - expected).norm() < 0.015 * expected.norm()


def test_threads_change_nothing():
    x = torch.randn(33, 260).bfloat16().requires_grad_()
    before, results = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        y = gated_activation(x)
        results.append((y, torch.autograd.grad(y.float().sum(), x)[0]))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_checkpointing_and_strides():
    x = torch.randn(8, 6, 20, requires_grad=True)
    y = gated_activation(x, keep="input")
    again = checkpoint(gated_activation, x, keep="input", use_reentrant=False)
    assert torch.equal(*(torch.autograd.grad(v.square().sum(), x)[0] for v in (y, again)))
    for view in (x.transpose(0, 1), x[..., ::2], x[:, 1:3]):
        assert_near(gated_activation(view), oracle(view.double(), "gelu", True))


@pytest.mark.once
def test_operators():
    x = torch.randn(6, 20)
    for gated in (False, True):
        torch.library.opcheck(_gated.operator, (x, "gelu", gated, gated), test_utils=("test_schema", "test_faketensor"))
        grad = x[:, : 20 // (1 + gated)].contiguous()
        for saved, scale in ((x, None), (x.to(torch.int8), torch.rand(6 * (1 + gated)))):
            torch.library.opcheck(
                _gated_grad.operator, (grad, saved, scale, "silu", gated), test_utils=("test_schema", "test_faketensor")
            )


@pytest.mark.once
def test_what_is_refused():
    with pytest.raises(UnknownChoice, match="activation"):
        activation(torch.ones(2), "relu")
    with pytest.raises(ValueError, match=r"x torch.int32 \(2,\); expected float \(\.\.\., C\)"):
        activation(torch.ones(2, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"x \(3, 5\) has no two halves"):
        gated_activation(torch.ones(3, 5))
