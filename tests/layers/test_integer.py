"""Layers in integers: against the float ones within the bound of one rounding, and what they keep."""

import copy
import itertools

import pytest
import torch
from torch import nn

from intaglio.kernels.weight_product import integer_weight
from intaglio.layers import frozen
from intaglio.layers.frozen import quantize_layer
from intaglio.layers.integer_path import set_compute
from intaglio.layers.low_rank import LowRankLayer
from intaglio.layers.scaled import ScaledLayer, TimestepScaledLayer
from intaglio.layers.timesteps import Selection, TimestepContext
from intaglio.quantizers.formats import parse_format
from saved import saved_bytes

FORMATS = ["int8", "int4", "int4_asym", "int4_g64_asym", "nf4"]
RELATIVE = 0.02
"""A Gaussian row of 64 to 500 values peaks at 3 to 4 sigma: a step is peak / 127, its error step / sqrt(12), under 1 %
of sigma. Two operands are rounded on the way to a gradient, a third one in memory."""


def cases():
    yield nn.Linear(72, 40), torch.randn(3, 11, 72)
    yield nn.Linear(64, 50, bias=False), torch.randn(3, 64)
    yield nn.Conv2d(32, 24, 3, padding=1), torch.randn(3, 32, 9, 7)
    yield nn.Conv2d(32, 24, 3, padding=1, stride=2), torch.randn(3, 32, 9, 7).to(memory_format=torch.channels_last)
    yield nn.Conv2d(64, 24, 1, bias=False), torch.randn(3, 64, 5, 4)


def quantized(layer, format, scale_inputs=False):
    base = quantize_layer(layer, parse_format(format), "absmax")
    if scale_inputs:
        base.input_scale = torch.rand(frozen.geometry(base).in_channels) + 0.5
    return base.requires_grad_(False)


def integer_twin(base):
    """A float layer of the weight that the integer products multiply with."""
    weight = integer_weight(base.quantized())
    rows = (weight.codes() * weight.scale[:, None]).double()
    twin = frozen.to_float(base).double()
    if isinstance(base, nn.Conv2d):
        rows = rows.view(len(rows), *base.kernel_size, -1).permute(0, 3, 1, 2)
    scale = base.input_scale
    twin.weight.data = rows if scale is None else frozen.scale_inputs(twin, rows, scale.double())
    return twin


def run(layer, x, weights=None):
    """Output, the gradient of x, and those of what is trained."""
    x = x.detach().clone().requires_grad_()
    y = layer(x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(5)).to(y) if weights is None else weights
    trained = [p for p in layer.parameters() if p.requires_grad]
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), [x, *trained], allow_unused=True)]


def assert_near(got, expected, name=""):
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        if b is None:
            assert a is None
            continue
        error = (a.double() - b.double()).norm() / b.double().norm()
        assert error < RELATIVE, (name, i, float(error))


@pytest.mark.parametrize(("format", "scale_inputs"), list(itertools.product(FORMATS, [False, True])))
def test_a_product_is_within_half_a_step_of_its_operand(format, scale_inputs):
    torch.manual_seed(0)
    for layer, x in cases():
        base = quantized(layer, format, scale_inputs)
        twin = integer_twin(base)
        y, grad = run(twin, x.double())
        set_compute(base, "integer")
        got_y, got_grad = run(base, x)
        absolute = integer_twin(base)
        absolute.weight.data.abs_()
        absolute.bias = None
        token = 1 if isinstance(base, nn.Linear) else (1, 2, 3)
        factor = 1 if base.input_scale is None else base.geometry.along_channels(base.input_scale, x)
        flat = (lambda t: t.flatten(0, -2)) if isinstance(base, nn.Linear) else (lambda t: t)
        # x * factor is off by half a step, a step being 1/127 of the largest; the twin's weight holds factor once more.
        step = flat((x * factor).abs()).amax(token, keepdim=True).double() / 127
        reach = absolute(torch.ones_like(x).double() / factor)
        bound = flat(reach) * step * 0.5 * (1 + 1e-5) + 1e-5 * flat(y).abs().max()
        assert (flat(got_y.double() - y).abs() <= bound).all()
        assert ((got_grad.double() - grad).norm() / grad.norm()) < RELATIVE


def test_float64_and_groups_stay_exact():
    for layer, x in (
        (nn.Linear(8, 8), torch.randn(2, 8).double()),
        (nn.Conv2d(8, 8, 3, groups=2), torch.randn(2, 8, 5, 5)),
    ):
        base = quantized(layer, "int8").to(x.dtype)
        expected = run(base, x)
        set_compute(base, "integer")
        assert all(torch.equal(a, b) for a, b in zip(run(base, x), expected, strict=True))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("train_input", [False, True])
def test_scales(format, train_input):
    """One set for all samples, and a set for each of two groups of samples."""
    torch.manual_seed(0)
    for (layer, x), scale_inputs in itertools.product(list(cases()), [False, True]):
        context = TimestepContext()
        context.selection = Selection((0, 2), torch.tensor([1, 0, 1]))
        base = quantized(layer, format, scale_inputs)
        for adapted in (
            ScaledLayer(base, train_input=train_input),
            TimestepScaledLayer(base, context, 3, train_input=train_input),
        ):
            for offset in adapted.parameters():
                if offset.requires_grad:
                    offset.data = torch.randn_like(offset) * 0.2
            set_compute(base, "float")
            expected = run(adapted, x)
            set_compute(base, "integer")
            assert_near(run(adapted, x), expected, f"{base} {type(adapted).__name__}")


@pytest.mark.parametrize("format", FORMATS)
def test_low_rank(format):
    torch.manual_seed(0)
    for (layer, x), scale_inputs in itertools.product(list(cases()), [False, True]):
        base = quantized(layer, format, scale_inputs)
        adapted = LowRankLayer(base, 4, 8.0)
        nn.init.normal_(adapted.lora_b, std=0.1)
        expected = run(adapted, x)
        set_compute(base, "integer")
        assert_near(run(adapted, x), expected, str(base))


def test_adapted_at_the_start_equals_its_base_bit_for_bit():
    torch.manual_seed(0)
    for layer, x in cases():
        base = quantized(layer, "int4")
        set_compute(base, "integer")
        expected = run(base, x)
        for adapted in (ScaledLayer(base, train_input=True), LowRankLayer(base, 4, 4.0)):
            assert torch.equal(run(adapted, x)[0], expected[0])


def test_bfloat16():
    torch.manual_seed(0)
    for layer, x in cases():
        base = quantized(layer, "int4")
        set_compute(base, "integer")
        expected = run(base, x)
        got = run(base.bfloat16(), x.bfloat16())
        assert got[0].dtype == got[1].dtype == torch.bfloat16
        assert_near(got, expected)


def kept_bytes(layer, x):
    return saved_bytes(lambda: layer(x.requires_grad_()), [*layer.parameters(), *layer.buffers()])[0]


@pytest.mark.parametrize("make", [nn.Linear, lambda i, o: nn.Conv2d(i, o, 3, padding=1)])
def test_only_codes_are_kept(make):
    """A byte an element of input and output, a float32 scale each token, the factors; no float activation."""
    base = quantized(make(128, 256), "int4")
    set_compute(base, "integer")
    x = torch.randn(2, 8, 128) if isinstance(base, nn.Linear) else torch.randn(2, 128, 4, 4)
    tokens = x.numel() // 128
    assert kept_bytes(base, x) == 0
    factors = 4 * (128 + 256)
    assert kept_bytes(ScaledLayer(base, train_input=True), x) <= tokens * (128 + 256) + 8 * tokens + factors
    if isinstance(base, nn.Linear):
        assert kept_bytes(LowRankLayer(base, 4, 4.0), x) <= tokens * 128 + 4 * tokens + 4 * 4 * tokens


def test_not_finite_input_reaches_the_output():
    """A row that cannot be rounded is NaN in the output: the training loop sees it and stops."""
    base = quantized(nn.Linear(16, 8), "int4")
    set_compute(base, "integer")
    x = torch.randn(3, 16)
    x[1, 3] = float("inf")
    finite = torch.isfinite(base(x)).all(1)
    assert finite.tolist() == [True, False, True]


@pytest.mark.parametrize("back", [False, True])
def test_no_tokens(back):
    layer = quantize_layer(nn.Linear(12, 8), parse_format("int4"), "mse")
    layer.compute = "integer"
    x = torch.randn(0, 12, requires_grad=back)
    y = layer(x)
    assert y.shape == (0, 8)
    if back:
        y.sum().backward()
        assert x.grad.shape == (0, 12)


def test_made_in_inference_mode():
    torch.manual_seed(0)
    made = nn.Linear(12, 8)
    with torch.inference_mode():
        layer = quantize_layer(copy.deepcopy(made), parse_format("int4"), "mse")
        layer.compute = "integer"
        inside = layer(torch.ones(3, 12))
    layer = quantize_layer(made, parse_format("int4"), "mse")
    layer.compute = "integer"
    assert torch.equal(inside, layer(torch.ones(3, 12)))
