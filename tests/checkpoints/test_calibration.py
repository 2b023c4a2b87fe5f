"""Gram matrices of layers' inputs, and a base whose layers are rounded for them."""

import copy

import pytest
import torch

import intaglio
from intaglio.checkpoints.calibration import input_grams, quantize_by_outputs
from intaglio.families.registry import denoisers_of
from intaglio.layers.frozen import QuantizedLayer
from intaglio.layers.names import find_layers
from intaglio.layers.quantize_model import BaseRecord, base_record, layers_to_quantize, quantize_model
from intaglio.quantizers.quantize import to_rows
from tiny_models import make_unet


def inputs(seed):
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(2, 5, 24, generator=generator)
    return torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([100, 900]), text


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (3, 1, 1), (3, 2, 0)])
def test_the_gram_of_a_convolution_is_that_of_its_patches(kernel, stride, padding):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 5, kernel, stride, padding))
    x = torch.randn(2, 3, 7, 7)
    gram = input_grams(model, ["0"], lambda: model(x), rows=10**6)["0"]
    patches = torch.nn.functional.unfold(x, kernel, padding=padding, stride=stride)  # (B, I kh kw, places)
    by_tap = patches.view(2, 3, kernel * kernel, -1).permute(0, 3, 2, 1).reshape(-1, 3 * kernel * kernel)
    torch.testing.assert_close(gram, by_tap.T @ by_tap, rtol=1e-4, atol=1e-4)


def test_calls_add_up_and_the_hooks_go():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2))
    x = torch.randn(4, 6, 3)
    gram = input_grams(model, ["0"], lambda: (model(x), model(2 * x)), rows=24)["0"]
    flat = x.reshape(-1, 3)
    torch.testing.assert_close(gram, 5 * flat.T @ flat, rtol=1e-5, atol=1e-5)
    assert not model[0]._forward_pre_hooks


def test_a_base_rounded_for_its_inputs_predicts_nearer_to_the_float_one():
    model = make_unet().eval()
    names = layers_to_quantize(model, denoisers_of(model).keep_float)
    grams = input_grams(model, names, lambda: [model(*inputs(s)) for s in range(16)])
    assert all(grams[n].shape == (to_rows(model.get_submodule(n).weight).shape[1],) * 2 for n in names)
    plain, rounded = copy.deepcopy(model), copy.deepcopy(model)
    quantize_model(plain, BaseRecord("int4", "mse", denoisers_of(model).keep_float))
    quantize_by_outputs(rounded, grams, "int4")
    assert base_record(rounded) == base_record(plain)
    assert {n for n, m in find_layers(rounded) if isinstance(m, QuantizedLayer)} == set(names)
    with torch.no_grad():
        wanted = model(*inputs(99)).sample
        errors = [(m(*inputs(99)).sample - wanted).square().mean() for m in (plain, rounded)]
    assert errors[1] < errors[0]
    assert intaglio.attach(rounded, intaglio.Peqa()).settled.base.format == "int4"  # any method trains on it
