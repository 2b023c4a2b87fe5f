"""The integer layer against its definition bit for bit, and against float products of the same operands."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from intaglio.errors import UserError
from intaglio.layers.frozen import quantize_layer
from intaglio.layers.int8_lora.arithmetic import IntegerArithmetic
from intaglio.layers.int8_lora.layer import Int8LoraLayer, weight_codes
from intaglio.layers.low_rank import LowRankLayer
from intaglio.layers.shared_input import project
from intaglio.quantizers import integer_step as step
from intaglio.quantizers.formats import parse_format
from intaglio.quantizers.quantize import from_rows, to_rows
from saved import saved_bytes

CONVOLUTIONS = [
    {"kernel_size": 1},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": (3, 1), "padding": (2, 0), "dilation": (2, 1)},
    {"kernel_size": 1, "stride": 2},
]
EXACT = IntegerArithmetic(scale="power_of_two")


def layer_of(make, how, rank=3, alpha=6.0, format="int8", seed=0):
    """A layer whose pair has moved from its start, as in training."""
    torch.manual_seed(seed)
    layer = Int8LoraLayer(quantize_layer(make(), parse_format(format), "mse"), rank, alpha, how, "block.to_q")
    nn.init.normal_(layer.lora_b, std=0.05)
    return layer


def run(layer, x, scale=1e-3):
    """Output, gradient of the output, and the three gradients."""
    x = x.clone().requires_grad_()
    for parameter in (layer.lora_a, layer.lora_b):
        parameter.grad = None
    y = layer(x)
    grad = scale * torch.randn(y.shape, generator=torch.Generator().manual_seed(5))
    y.backward(grad)
    return y.detach(), grad, x.grad, layer.lora_a.grad, layer.lora_b.grad


def defined(layer, x, grad):
    """What the definition says of the same step: output and the gradients of x, A and B."""
    how, base = layer.how, layer.base
    convolution = None
    if isinstance(base, nn.Conv2d):
        shape = base.geometry
        convolution = shape.window
        x, grad = x.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1)
    by_tensor = how.granularity == "tensor"
    input_shape, output_shape = x.shape, grad.shape
    x_rows, g_rows = (t.reshape(-1, t.shape[-1]).contiguous().numpy() for t in (x, grad))
    groups = 1 if by_tensor else len(x_rows) if convolution is None else len(x)
    weight, scale = weight_codes(base).numpy(), layer.weight_scale.numpy()
    bias = None if base.bias is None else base.bias.detach().numpy()

    xq = step.quantize(x_rows, how.activation_bits, groups)
    a = step.quantize((to_rows(layer.lora_a.detach()) * layer.scaling).numpy(), 8, layer.rank)
    b_rows = layer.lora_b.detach().flatten(1).numpy() / scale[:, None]
    b = step.quantize(np.ascontiguousarray(b_rows.T), 8, layer.rank)
    b = step.Codes(b.codes.T, b.exponent.T)
    x_input = xq
    if convolution is not None:
        patches = step.unfold(xq.codes.reshape(input_shape), convolution)
        per_sample = xq.exponent.reshape(len(x), -1)[:, :1]
        xq = step.Codes(patches, np.repeat(per_sample, len(patches) // len(x), 0))
    first = step.forward(xq, weight, a, b, bits=how.activation_bits, groups=groups)
    y = step.output(first, xq, scale, bias)

    seed = step.seed_of(g_rows) if how.rounding == "stochastic" else None
    g = step.quantize(g_rows * scale, how.gradient_bits, groups, seed)
    second = step.backward(g, xq, first.h, weight, a, b, bits=how.gradient_bits, groups=groups, seed=seed)
    if convolution is not None:
        dx, v = (step.fold(t, tuple(input_shape), convolution).reshape(x_rows.shape) for t in (second.dx, second.v))

        def by_input(codes):
            per_sample = codes.exponent.reshape(len(x), -1)[:, :1]
            return step.Codes(codes.codes, np.repeat(per_sample, len(x_rows) // len(x), 0))

        grad_x = step.grad_input(
            step.Backward(**{**vars(second), "dx": dx, "v": v, "gh_codes": by_input(second.gh_codes)}), by_input(g)
        )
    else:
        grad_x = step.grad_input(second, g)
    assert x_input.codes.shape == x_rows.shape
    y, grad_x = torch.from_numpy(y).view(output_shape), torch.from_numpy(grad_x).view(input_shape)
    if convolution is not None:
        y, grad_x = y.permute(0, 3, 1, 2), grad_x.permute(0, 3, 1, 2)
    grad_a = from_rows(torch.from_numpy(step.grad_a(second, layer.scaling)), tuple(layer.lora_a.shape))
    return y, grad_x, grad_a, torch.from_numpy(step.grad_b(second, scale)).view(layer.lora_b.shape)


def cases():
    for bias in (True, False):
        yield lambda bias=bias: nn.Linear(13, 7, bias=bias), (2, 5, 13)
    yield lambda: nn.Linear(1, 1), (1, 1)
    yield lambda: nn.Linear(64, 96), (3, 2, 5, 64)
    for options in CONVOLUTIONS:
        yield lambda options=options: nn.Conv2d(5, 4, **options), (2, 5, 7, 6)


@pytest.mark.parametrize("format", ["int8", "int6", "int4"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rounding": "stochastic"},
        {"activation_bits": 5, "gradient_bits": 4, "rounding": "stochastic"},
        {"granularity": "tensor"},
    ],
    ids=str,
)
def test_every_number_equals_the_definition(format, options):
    for make, shape in cases():
        layer = layer_of(make, IntegerArithmetic(scale="power_of_two", **options), format=format)
        x = torch.randn(shape) * torch.logspace(-3, 3, shape[0]).view(-1, *[1] * (len(shape) - 1))
        y, grad, *gradients = run(layer, x)
        for got, expected in zip((y, *gradients), defined(layer, x, grad), strict=True):
            assert torch.equal(got, expected)


def float_gradients(layer, x, grad):
    """The same step by `LowRankLayer`, in float64."""
    twin = LowRankLayer(layer.base, layer.rank, layer.alpha)
    twin.load_state_dict(layer.state_dict())
    twin.double()
    twin.base.scale = twin.base.scale.double()
    for p in (twin.lora_a, twin.lora_b):
        p.data = p.data.double()
    x = x.double().requires_grad_()
    y = twin(x)
    y.backward(grad.double())
    return y.detach(), x.grad, twin.lora_a.grad, twin.lora_b.grad


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("scale", ["float", "power_of_two"])
def test_near_to_float(scale, separate):
    """Rounding to b bits of a range that a tensor of normal numbers fills leaves a relative error of about
    max|x| / (127 sqrt(12) rms): under 1 % for the four sigma of these tensors, twice that with power-of-two scales,
    and an adapter's gradient has three such operands. Five times that is the bound."""
    bound = 0.05 if scale == "float" else 0.1
    for make, shape in cases():
        if 1 in shape:
            continue
        layer = layer_of(make, IntegerArithmetic(scale=scale, separate_gradient=separate))
        x = torch.randn(shape)
        y, grad, *gradients = run(layer, x)
        for got, expected in zip((y, *gradients), float_gradients(layer, x, grad), strict=True):
            assert (got.double() - expected).norm() <= bound * expected.norm()


def test_a_pair_at_its_start_has_the_gradient_of_b_alone():
    layer = layer_of(lambda: nn.Linear(16, 8), IntegerArithmetic())
    nn.init.zeros_(layer.lora_b)
    *_, grad_a, grad_b = run(layer, torch.randn(4, 16))
    assert not grad_a.any()
    assert grad_b.any()


def test_a_channel_of_zeros_does_not_spoil_the_others():
    """Its stored scale is 1, a thousand times the others': as part of g * s it would leave nothing of them."""
    linear = nn.Linear(32, 16)
    with torch.no_grad():
        linear.weight[3] = 0
    layer = layer_of(lambda: linear, IntegerArithmetic())
    assert layer.base.scale[3] == 1
    x = torch.randn(8, 32)
    y, grad, *gradients = run(layer, x)
    for got, expected in zip((y, *gradients), float_gradients(layer, x, grad), strict=True):
        assert (got.double() - expected).norm() <= 0.05 * expected.norm()


@pytest.mark.parametrize("make", [lambda: nn.Linear(64, 48), lambda: nn.Conv2d(64, 48, 3, padding=1)])
def test_autograd_keeps_x_as_int8(make):
    layer = layer_of(make, IntegerArithmetic(), rank=4)
    x = torch.randn(2, 64, 8, 8) if isinstance(layer.base, nn.Conv2d) else torch.randn(2, 64, 64)
    kept, y = saved_bytes(lambda: layer(x.requires_grad_()), layer.parameters())
    tokens = x.numel() // 64
    groups = 2 if isinstance(layer.base, nn.Conv2d) else tokens
    assert kept == x.numel() + 4 * groups + 4 * 4 * tokens
    assert y.shape[0] == 2


def test_layers_with_one_input_round_it_once():
    """Query, key and value: one set of INT8 values, in memory too; what rounds otherwise rounds for itself."""
    query, key, value = (layer_of(lambda: nn.Linear(64, 48), EXACT, rank=4, seed=s) for s in (0, 1, 2))
    x = torch.randn(2, 64, 64, requires_grad=True)
    layers = query, key, value
    alone = [layer(x).detach() for layer in layers]
    kept, _ = saved_bytes(lambda: project(x, *layers), [p for layer in layers for p in layer.parameters()])
    tokens = 128
    assert kept == tokens * (64 + 4) + 3 * 4 * 4 * tokens
    assert all(map(torch.equal, project(x, *layers), alone))
    other = layer_of(lambda: nn.Linear(64, 48), IntegerArithmetic(activation_bits=4), rank=4)
    merged = layer_of(lambda: nn.Linear(64, 48), EXACT, rank=4)
    merged.base.input_scale = torch.rand(64) + 0.5
    plain = nn.Linear(64, 48)
    mixed = query, other, key, merged, plain
    assert all(map(torch.equal, project(x, *mixed), [layer(x) for layer in mixed]))


def test_an_input_that_is_rounded_once_must_be_finite():
    layers = [layer_of(lambda: nn.Linear(16, 8), EXACT, seed=s) for s in (0, 1)]
    x = torch.randn(4, 16)
    x[2, 3] = float("inf")
    with pytest.raises(UserError, match=r"block\.to_q: its input has values that are not finite"):
        project(x, *layers)


def test_autocast_computes_the_same_integers():
    """In bfloat16 the base's share is rounded before the pair's is added, and the sum again: half a unit each."""
    layer = layer_of(lambda: nn.Linear(1500, 8), EXACT)
    x = torch.randn(3, 1500).bfloat16()
    plain = layer(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = layer(x.float())
    assert mixed.dtype == torch.bfloat16
    base = plain.detach().abs() + layer.scaling * (x.float() @ layer.lora_a.T @ layer.lora_b.T).abs()
    assert ((mixed.float() - plain).abs() <= 2.0**-8 * (base + plain.abs()) * (1 + 2.0**-6)).all()
    x = x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).float().square().sum().backward()
    assert x.grad.dtype == torch.bfloat16
    assert layer.lora_a.grad.dtype == torch.float32


def test_an_input_that_needs_no_gradient():
    layer = layer_of(lambda: nn.Linear(16, 8), EXACT)
    x = torch.randn(4, 16)
    expected = run(layer, x)
    y = layer(x)
    for parameter in (layer.lora_a, layer.lora_b):
        parameter.grad = None
    y.backward(expected[1])
    assert torch.equal(layer.lora_a.grad, expected[3])
    assert torch.equal(layer.lora_b.grad, expected[4])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("scale", ["float", "power_of_two"])
def test_what_is_not_finite_is_named(value, scale):
    layer = layer_of(lambda: nn.Linear(16, 8), IntegerArithmetic(scale=scale))
    x = torch.randn(4, 16)
    x[2, 3] = value
    with pytest.raises(UserError, match=r"block\.to_q: its input has values that are not finite"):
        layer(x)
    y = layer(torch.randn(4, 16, requires_grad=True))
    grad = torch.zeros_like(y)
    grad[1, 1] = value
    with pytest.raises(UserError, match=r"block\.to_q: its gradient has values that are not finite"):
        y.backward(grad)
    half = layer(torch.randn(4, 16, dtype=torch.float16))
    half.backward(grad.half())
    assert not torch.isfinite(layer.lora_b.grad).all(), "a GradScaler must see it"


def test_more_tokens_than_int32_sums():
    """One more than the bound: summed in two parts, each exact."""
    layer = layer_of(lambda: nn.Linear(2, 2), EXACT, rank=1)
    nn.init.ones_(layer.lora_a)
    x = torch.ones(step.MAX_REDUCTION + 1, 2)
    layer(x).backward(torch.ones(len(x), 2))
    single = layer.lora_b.grad.clone() / len(x)
    layer.lora_b.grad = None
    layer(x[:1]).backward(torch.ones(1, 2))
    assert torch.equal(single, layer.lora_b.grad)


def test_a_reduction_that_int32_may_not_hold_is_refused():
    with pytest.raises(UserError, match=r"block\.to_q sums 131,072 products, which INT32 may not hold"):
        layer_of(lambda: nn.Linear(step.MAX_REDUCTION + 1, 1), IntegerArithmetic())
    with pytest.raises(UserError, match=r"block\.to_q sums 131,076 products"):
        layer_of(lambda: nn.Conv2d(1, 14564, 3), IntegerArithmetic())


@pytest.mark.parametrize("format", ["nf4", "int8_asym", "int4_g64"])
def test_other_formats_are_refused(format):
    with pytest.raises(ValueError, match=f"{format} has no single scale per output channel, or a zero point"):
        layer_of(lambda: nn.Linear(64, 8), IntegerArithmetic(), format=format)


def test_calls_are_laid_out_anew_for_other_arithmetic():
    how, other = IntegerArithmetic(), IntegerArithmetic(granularity="tensor", activation_bits=6)
    x = torch.randn(2, 9, 24)
    layer, fresh = (layer_of(lambda: nn.Linear(24, 40), chosen) for chosen in (how, other))
    run(layer, x)
    layer.how = other
    for found, expected in zip(run(layer, x), run(fresh, x), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("how", [IntegerArithmetic(), IntegerArithmetic(integer_adapter=True)])
def test_copies_after_use_compute_the_same(how):
    layer, x = (
        Int8LoraLayer(quantize_layer(nn.Linear(12, 8), parse_format("int4"), "mse"), 2, 2.0, how),
        torch.randn(3, 12),
    )
    y = layer(x)
    y.sum().backward()
    assert torch.equal(copy.deepcopy(layer)(x), y)


def test_another_base_can_be_loaded():
    one, other = layer_of(lambda: nn.Linear(12, 8), EXACT), layer_of(lambda: nn.Linear(12, 8), EXACT, seed=1)
    x = torch.randn(3, 12)
    one(x)
    one.load_state_dict(other.state_dict())
    assert torch.equal(one(x), other(x))


def test_made_in_inference_mode():
    with torch.inference_mode():
        layer = layer_of(lambda: nn.Linear(12, 8), EXACT)
        inside = layer(torch.ones(3, 12))
    assert torch.equal(inside, layer_of(lambda: nn.Linear(12, 8), EXACT)(torch.ones(3, 12)))
