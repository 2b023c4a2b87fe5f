"""Attention against its definition in float64, and the properties that a training step relies on."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from intaglio.kernels.attention import attention, flash, is_compiled, op
from intaglio.kernels.attention.reference import attend, attend_gradient
from saved import saved_bytes

SHAPES = [  # batch, heads, queries, keys, head_dim
    (1, 1, 1, 1, 1), (1, 2, 3, 5, 7), (2, 3, 17, 33, 40), (1, 2, 100, 77, 40), (1, 1, 257, 131, 80),
    (1, 1, 64, 64, 160), (1, 2, 130, 300, 64), (1, 1, 31, 15, 256), (1, 1, 40, 113, 13), (1, 1, 1, 401, 33),
    (1, 1, 227, 1, 17), (3, 1, 16, 78, 31),
]  # fmt: skip
U16, U32 = 2.0**-8, 2.0**-23
"""Largest relative error of rounding to bfloat16, and of one float32 operation: vdpbf16ps may truncate."""
EXP2 = 2.6e-6
TINY = 1e-30  # vdpbf16ps takes what is denormal for zero


@pytest.fixture
def compiled(path):
    if path in ("torch", "reference"):
        pytest.skip("torch computes here")


def operands(shape, seed=0, spread=1.0):
    batch, heads, queries, keys, head_dim = shape
    generator = torch.Generator().manual_seed(seed)
    lengths = (queries, keys, keys, queries)
    made = [torch.randn(batch, t, heads, head_dim, generator=generator) for t in lengths]
    made[0] *= spread
    return [x.bfloat16().transpose(1, 2) for x in made]


def ours(q, k, v, grad, scale=None):
    """The result and the three gradients."""
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    out = attention(*leaves, scale)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def exact_and_bounds(q, k, v, grad, scale):
    """The definition in float64, and how far a kernel may be from it that rounds as `reference.py` says.

    Scores err by a float32 sum of head_dim products and by the exponential's offset, which makes a relative error `w`
    of the weights. A product with weights P rounded to bfloat16 errs by (U16 + w) P |.|; D has the error of O in it; dS
    errs by P |error of D| and its own rounding; and each result is rounded to bfloat16 once more.
    """
    q, k, v, grad = (x.double() for x in (q, k, v, grad))
    out, lse = attend(q, k, v, scale)
    grads = attend_gradient(grad, q, k, v, out, lse, scale)
    head_dim, queries, keys = q.shape[3], q.shape[2], k.shape[2]
    scores = scale * (q.abs() @ k.mT.abs())
    w = EXP2 + U32 * ((head_dim + 4) * scores + 4 * (scores.amax(-1, keepdim=True) + lse.abs()[..., None] + 4))
    weights = (scale * (q @ k.mT) - lse[..., None]).exp()
    sum_error = U32 * (keys + 4)
    error_out = ((U16 + 2 * w.amax(-1, keepdim=True) + sum_error) * weights) @ v.abs() * (1 + U16) + U16 * out.abs()
    error_v = ((U16 + w + U32 * queries) * weights).mT @ grad.abs() * (1 + U16) + U16 * grads[2].abs()
    float_part = U32 * (head_dim + 2) * (grad.abs() @ v.mT.abs() + (grad * out).abs().sum(-1, keepdim=True))
    grad_scores = weights * (grad @ v.mT - (grad * out).sum(-1, keepdim=True))
    error_d = (grad.abs() * error_out).sum(-1, keepdim=True) + float_part
    error_s = (weights * error_d * (1 + w) + (w + U16 + U32 * max(queries, keys)) * grad_scores.abs()) * (1 + U16)
    error_q = scale * error_s @ k.abs() * (1 + U16) + U16 * grads[0].abs()
    error_k = scale * error_s.mT @ q.abs() * (1 + U16) + U16 * grads[1].abs()
    return [out, *grads], [error_out, error_q, error_k, error_v]


def assert_within_bounds(q, k, v, grad, scale=None):
    expected, bounds = exact_and_bounds(q, k, v, grad, q.shape[3] ** -0.5 if scale is None else scale)
    got = ours(q, k, v, grad, scale)
    for name, value, exact, bound in zip(("out", "q", "k", "v"), got, expected, bounds, strict=True):
        error = (value.double() - exact).abs()
        assert (error <= bound + TINY).all(), f"{name}: {(error / (bound + TINY)).max():.2f} of the bound"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_the_definition(compiled, shape):
    assert_within_bounds(*operands(shape))


@pytest.mark.parametrize(("spread", "scale"), [(30.0, None), (1.0, 0.0), (1.0, 1.0), (0.01, 3.0)])
@pytest.mark.parametrize("keys", [230, 131])
def test_scores_of_any_size(compiled, spread, scale, keys):
    """One weight takes all; all are equal; a scale that is given."""
    assert_within_bounds(*operands((1, 2, 50, keys, 24), spread=spread), scale)


@pytest.mark.once
def test_the_definition_is_torchs():
    q, k, v, grad = (x.double() for x in operands((2, 2, 7, 9, 5)))
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    expected = F.scaled_dot_product_attention(*leaves, scale=0.3)
    out, lse = attend(q, k, v, 0.3)
    torch.testing.assert_close(out, expected.detach())
    gradients = torch.autograd.grad(expected, leaves, grad)
    torch.testing.assert_close(attend_gradient(grad, q, k, v, out, lse, 0.3), gradients)


def test_strides(compiled):
    """Heads before tokens, a slice of a joint projection, every second token, a last axis that is not contiguous."""
    q, k, v, grad = operands((2, 3, 18, 21, 10))
    expected = ours(q, k, v, grad)
    joint = torch.cat([k.transpose(1, 2), v.transpose(1, 2)], -1).transpose(1, 2)
    spaced = torch.empty(2, 3, 36, 10, dtype=torch.bfloat16)[:, :, ::2]
    spaced.copy_(grad)
    for arguments in (
        [x.contiguous() for x in (q, k, v, grad)],
        [q, joint[..., :10], joint[..., 10:], spaced],
        [x.mT.contiguous().mT for x in (q, k, v, grad)],
    ):
        for got, wanted in zip(ours(*arguments), expected, strict=True):
            assert torch.equal(got, wanted)


def test_nothing_is_copied_around_it(compiled):
    """The memory of the result and of the gradients is (B, T, H, D), as a projection's is."""
    results = ours(*operands((2, 3, 18, 21, 10)))
    assert all(x.transpose(1, 2).is_contiguous() for x in results)


@pytest.mark.parametrize("shape", [(1, 3, 150, 201, 24), (1, 1, 300, 77, 40)], ids=str)
def test_threads_and_repeats_change_nothing(compiled, shape):
    """Also where a head is shared: more threads than heads, than blocks of keys or of queries."""
    arguments = operands(shape)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 2, 5):
        torch.set_num_threads(threads)
        results.append(ours(*arguments))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_goes_on(compiled, bad):
    """A query spoils its own row, a key or a value all of them."""
    for which in range(3):
        arguments = operands((1, 1, 40, 130, 16))
        arguments[which][0, 0, 5, 3] = bad
        out, *grads = ours(*arguments)
        rows = out.isfinite().all(-1)[0, 0]
        if which == 0:
            assert not rows[5]
            assert rows.sum() == 39
        else:
            reference = attend(*(x.double() for x in arguments[:3]), 0.25)[0].isfinite().all(-1)[0, 0]
            assert torch.equal(rows, reference)
        assert not all(g.isfinite().all() for g in grads)


@pytest.mark.once
def test_operators():
    q, k, v, grad = operands((1, 2, 19, 23, 6))
    for int8 in (False, True):
        torch.library.opcheck(op.attention_operator.operator, (q, k, v, 0.4, int8))
    out, lse = op.attention_operator(q, k, v, 0.4, False)
    torch.library.opcheck(op.gradient_operator.operator, (grad, q, k, v, out, lse, 0.4))


@pytest.mark.once
def test_a_compiler_sees_them(compiled):
    q, k, v, grad = operands((1, 2, 19, 23, 6))
    traced = torch.compile(attention, backend="aot_eager", fullgraph=True)
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    out = traced(*leaves)
    for got, wanted in zip((out, *torch.autograd.grad(out, leaves, grad)), ours(q, k, v, grad), strict=True):
        assert torch.equal(got, wanted)


def test_what_is_kept_for_the_backward_pass(compiled):
    q, k, v, _ = operands((1, 2, 64, 77, 40))
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    kept, _ = saved_bytes(lambda: attention(*leaves))
    assert kept == 2 * (2 * q.numel() + 2 * k.numel()) + 4 * 2 * 64


def test_gradient_checkpointing(compiled):
    q, k, v, grad = operands((1, 2, 64, 77, 40))
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    out = checkpoint(attention, *leaves, use_reentrant=False)
    for got, wanted in zip(torch.autograd.grad(out, leaves, grad), ours(q, k, v, grad)[1:], strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_one_gradient_alone(compiled, which):
    q, k, v, grad = operands((1, 2, 20, 30, 8))
    arguments = [q, k, v]
    arguments[which] = leaf = arguments[which].detach().requires_grad_()
    (got,) = torch.autograd.grad(attention(*arguments), leaf, grad)
    assert torch.equal(got, ours(q, k, v, grad)[1 + which])


@pytest.mark.parametrize(
    ("dtype", "shape", "scale"),
    [
        (torch.float32, (1, 2, 9, 11, 8), None),
        (torch.bfloat16, (1, 1, 4, 5, 257), None),
        (torch.bfloat16, (1, 2, 9, 11, 8), -0.5),
        (torch.bfloat16, (1, 2, 0, 11, 8), None),
    ],
    ids=str,
)
def test_torch_computes_the_rest(dtype, shape, scale, monkeypatch):
    monkeypatch.setattr(flash, "_has_bfloat16", lambda: True)
    q, k, v, _ = (x.to(dtype) for x in operands(shape))
    assert torch.equal(attention(q, k, v, scale), F.scaled_dot_product_attention(q, k, v, scale=scale))


def test_a_processor_without_bfloat16_computes_in_float32(path, monkeypatch):
    monkeypatch.setattr(flash, "_has_bfloat16", lambda: False)
    q, k, v, _ = operands((1, 2, 9, 11, 8))
    if path in ("torch", "reference"):
        expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float()).bfloat16()
        assert torch.equal(attention(q, k, v), expected)


def test_who_computes(path, monkeypatch):
    monkeypatch.setattr(flash, "_has_bfloat16", lambda: True)
    q, k, v, _ = operands((1, 2, 9, 11, 8))
    assert is_compiled(q, k, v) == (path not in ("torch", "reference"))
    assert is_compiled(q, k, v, int8=True) == (path == "avx512bf16")
    assert not is_compiled(*(x.to("meta") for x in (q, k, v)))
    if path in ("torch", "reference"):
        assert torch.equal(attention(q, k, v), F.scaled_dot_product_attention(q, k, v))


@pytest.mark.once
def test_what_is_refused():
    q, k = torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 5, 4)
    message = (
        r"attention: q \(1, 2, 3, 4\), k \(1, 2, 5, 4\), v \(1, 2, 6, 4\); expected \(batch, heads, queries, head_dim\)"
    )
    with pytest.raises(ValueError, match=message):
        attention(q, k, torch.zeros(1, 2, 6, 4))
    with pytest.raises(ValueError, match=r"k torch.bfloat16, v torch.float32; expected one dtype: cast them"):
        attention(q, k.bfloat16(), k)


def test_a_second_derivative_is_refused():
    q, k, v = (torch.randn(1, 2, 6, 16).bfloat16().requires_grad_() for _ in range(3))
    (grad,) = torch.autograd.grad(attention(q, k, v).float().square().sum(), q, create_graph=True)
    if attention(q, k, v).grad_fn.name() != "_AttentionBackward":
        pytest.skip("torch computes it")
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
