"""Outputs and gradients of the separable form against autograd through the dense weight, in float64."""

import itertools

import pytest
import torch
from torch import nn

from intaglio.layers import frozen
from intaglio.layers.frozen import quantize_layer
from intaglio.layers.low_rank import LowRankLayer
from intaglio.layers.scaled import ScaledLayer, TimestepScaledLayer
from intaglio.layers.timesteps import Selection, TimestepContext
from intaglio.quantizers.formats import parse_format
from saved import saved_bytes

TOLERANCE = {"rtol": 1e-9, "atol": 1e-10}

CONVOLUTIONS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": 1},
    {"kernel_size": (3, 1), "padding": (2, 0), "dilation": (2, 1)},
    {"kernel_size": 3, "padding": "same"},
    {"kernel_size": 3, "stride": 2, "padding": 0, "groups": 2},
]


def layers(bias):
    yield nn.Linear(6, 10, bias=bias), torch.randn(3, 5, 6)
    yield nn.Linear(7, 3, bias=bias), torch.randn(3, 7)
    yield nn.Linear(4, 4, bias=bias), torch.randn(3, 2, 3, 4)
    for options in CONVOLUTIONS:
        yield nn.Conv2d(6, 4, bias=bias, **options), torch.randn(3, 6, 7, 5)


CASES = list(itertools.product(["int8", "int4", "int4_asym", "int4_g64", "int4_g8_asym", "nf4", None], [True, False]))


def dense_reference(layer, x, r_out, r_in, rows):
    """Each sample through a dense weight of its own: W = r_out * W_hat * r_in."""
    weight = frozen.weight_of(layer, torch.float64).matrix(torch.float64)
    if getattr(layer, "input_scale", None) is not None:
        weight = frozen.scale_inputs(layer, weight, layer.input_scale.double())
    bias = None if layer.bias is None else layer.bias.double()
    outputs = []
    for sample, row in zip(x, rows, strict=True):
        scaled = weight * r_out[row].view(-1, *([1] * (weight.ndim - 1)))
        scaled = frozen.scale_inputs(layer, scaled, r_in[row])
        if isinstance(layer, nn.Linear):
            outputs.append(nn.functional.linear(sample[None], scaled, bias))
        else:
            outputs.append(layer._conv_forward(sample[None], scaled, bias))
    return torch.cat(outputs)


@pytest.mark.parametrize(("format", "bias"), CASES)
def test_scales_equal_the_dense_weight(format, bias):
    torch.manual_seed(0)
    rows = torch.tensor([1, 0, 1])
    for float_layer, x in layers(bias):
        base = float_layer if format is None else quantize_layer(float_layer, parse_format(format), "mse")
        base.requires_grad_(False)
        if format is not None and bias:
            base.input_scale = torch.rand(frozen.geometry(base).in_channels) + 0.5
        context = TimestepContext()
        layer = TimestepScaledLayer(base, context, 4, train_input=True)
        layer.double()
        for offset in layer.parameters():
            if offset.requires_grad:
                offset.data = torch.randn_like(offset, dtype=torch.float64) * 0.3
        context.selection = Selection((0, 2), rows)
        x = x.double().requires_grad_()

        y = layer(x)
        weights = torch.randn_like(y)
        (y * weights).sum().backward()

        r_out = torch.stack([1 + layer.output_offset[i].detach() for i in (0, 2)]).requires_grad_()
        r_in = torch.stack([1 + layer.input_offset[i].detach() for i in (0, 2)]).requires_grad_()
        x_dense = x.detach().clone().requires_grad_()
        y_dense = dense_reference(base, x_dense, r_out, r_in, rows)
        (y_dense * weights).sum().backward()

        torch.testing.assert_close(y, y_dense, **TOLERANCE)
        torch.testing.assert_close(x.grad, x_dense.grad, **TOLERANCE)
        for row, interval in enumerate((0, 2)):
            torch.testing.assert_close(layer.output_offset[interval].grad, r_out.grad[row], **TOLERANCE)
            torch.testing.assert_close(layer.input_offset[interval].grad, r_in.grad[row], **TOLERANCE)
        for untouched in (1, 3):
            assert layer.output_offset[untouched].grad is None
            assert layer.input_offset[untouched].grad is None


@pytest.mark.parametrize("format", ["int8", "int4_g64_asym"])
def test_the_identity_of_the_two_gradients(format):
    """sum(r_out * dr_out) = sum(r_in * dr_in): both are the derivative along a common factor of the weight."""
    for float_layer, x in layers(bias=False):
        layer = ScaledLayer(quantize_layer(float_layer, parse_format(format), "mse"), train_input=True).double()
        for offset in [*layer.output_offset, *layer.input_offset]:
            offset.data = torch.randn_like(offset, dtype=torch.float64) * 0.2
        layer(x.double()).square().sum().backward()
        left = ((1 + layer.output_offset[0]) * layer.output_offset[0].grad).sum()
        right = ((1 + layer.input_offset[0]) * layer.input_offset[0].grad).sum()
        torch.testing.assert_close(left, right, **TOLERANCE)


@pytest.mark.parametrize("format", ["int8", "int4", "nf4"])
def test_a_frozen_quantized_layer_passes_the_gradient_on(format):
    for float_layer, x in layers(bias=True):
        layer = quantize_layer(float_layer, parse_format(format), "mse")
        twin = frozen.to_float(layer).double()
        x = x.double().requires_grad_()
        x_twin = x.detach().clone().requires_grad_()
        y, y_twin = layer(x), twin(x_twin)
        torch.testing.assert_close(y, y_twin, rtol=1e-6, atol=1e-6)
        y.square().sum().backward()
        y_twin.square().sum().backward()
        torch.testing.assert_close(x.grad, x_twin.grad, rtol=1e-5, atol=1e-5)


def test_low_rank_update():
    torch.manual_seed(0)
    for float_layer, x in layers(bias=True):
        if isinstance(float_layer, nn.Conv2d) and float_layer.groups > 1:
            continue
        layer = LowRankLayer(quantize_layer(float_layer, parse_format("int8"), "mse"), 2, 4.0)
        nn.init.normal_(layer.lora_b)
        merged = layer.merged_float()
        torch.testing.assert_close(layer(x), merged(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [nn.Linear, lambda i, o: nn.Conv2d(i, o, 3, padding=1)])
@pytest.mark.parametrize("format", ["int4", "int8", "nf4"])
def test_autograd_keeps_no_weight(make, format):
    """What is kept is x, z and the factors: nothing of the size of the weight, and no float copy of it."""
    base = quantize_layer(make(128, 256), parse_format(format), "absmax")
    layer = ScaledLayer(base, train_input=True)
    is_linear = isinstance(base, nn.Linear)
    x = torch.randn(2, 3, 128) if is_linear else torch.randn(2, 128, 4, 4)
    kept, y = saved_bytes(lambda: layer(x.requires_grad_()))
    factors = 4 * (128 + 256)
    assert kept <= x.nbytes + y.nbytes + 2 * factors
    assert kept < 4 * 128 * 256
    kept, _ = saved_bytes(lambda: base(x))
    assert kept == 0


def test_scales_stay_float32_bit_for_bit():
    layer = ScaledLayer(quantize_layer(nn.Linear(8, 8), parse_format("int4_g8"), "mse"), train_input=True)
    layer.base.input_scale = torch.rand(8)
    for offset in [*layer.output_offset, *layer.input_offset]:
        nn.init.normal_(offset)
    before = {n: t.clone() for n, t in layer.state_dict().items()}
    layer.to(torch.bfloat16)
    after = layer.state_dict()
    assert after["base.bias"].dtype == torch.bfloat16
    for name in before.keys() - {"base.bias"}:
        assert after[name].dtype == before[name].dtype, name
        assert torch.equal(after[name], before[name]), name
    assert layer(torch.randn(2, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_autocast_computes_both_directions_in_bfloat16():
    layer = ScaledLayer(quantize_layer(nn.Linear(8, 8), parse_format("int8"), "mse"), train_input=True)
    x = torch.randn(2, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert layer.output_offset[0].grad.dtype == torch.float32
    assert x.grad.dtype == torch.float32


@pytest.mark.parametrize("format", ["int4", "int4_g8_asym"])
def test_absolute_offsets_are_relative_ones_times_their_scale(format):
    torch.manual_seed(0)
    base = quantize_layer(nn.Linear(16, 6), parse_format(format), "mse").requires_grad_(False)
    absolute, relative = (ScaledLayer(base, train_input=True, relative=r).double() for r in (False, True))
    share, scale = torch.rand(6, dtype=torch.float64), base.scale.mean(dim=1).double()
    absolute.output_offset[0].data, relative.output_offset[0].data = share * scale, share
    x = torch.randn(5, 16, dtype=torch.float64)
    torch.testing.assert_close(absolute(x), relative(x))
    for layer in (absolute, relative):
        layer(x).square().sum().backward()
    torch.testing.assert_close(absolute.output_offset[0].grad, relative.output_offset[0].grad / scale)
    torch.testing.assert_close(absolute.merged_float().weight, relative.merged_float().weight)
