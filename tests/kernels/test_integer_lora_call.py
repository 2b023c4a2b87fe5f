"""A layer of int8_lora in one call a direction against its operators one after the other, bit for bit."""

import pytest
import torch
from torch import nn

from intaglio.errors import UserError
from intaglio.layers.frozen import quantize_layer
from intaglio.layers.int8_lora.arithmetic import IntegerArithmetic
from intaglio.layers.int8_lora.layer import Int8LoraLayer
from intaglio.layers.int8_lora.step import Step
from intaglio.quantizers.formats import parse_format

pytestmark = pytest.mark.once("avx512")


@pytest.fixture(autouse=True)
def needs_vnni(path):
    if path not in ("avx512", "avx512bf16"):
        pytest.skip("the call needs AVX-512 with VNNI")


CASES = [
    (lambda: nn.Linear(1, 1), (1, 1)),
    (lambda: nn.Linear(13, 7, bias=False), (2, 5, 13)),
    (lambda: nn.Linear(64, 96), (3, 2, 5, 64)),
    (lambda: nn.Linear(67, 130), (1, 71, 67)),
    (lambda: nn.Conv2d(5, 4, 1), (2, 5, 7, 6)),
]


def layer_of(make, rank=3, alpha=6.0, format="int4", **options):
    torch.manual_seed(0)
    how = IntegerArithmetic(**options)
    layer = Int8LoraLayer(quantize_layer(make(), parse_format(format), "mse"), rank, alpha, how, "block.to_q")
    if not options.get("integer_adapter"):
        nn.init.normal_(layer.lora_b, std=0.05)
    return layer


def step_of(layer, x, need_x=True):
    x = x.clone().requires_grad_(need_x)
    layer.lora_a.grad = layer.lora_b.grad = None
    y = layer(x)
    y.backward(1e-3 * torch.randn(y.shape, generator=torch.Generator().manual_seed(5)).to(y.dtype))
    return [y.detach(), layer.lora_a.grad, layer.lora_b.grad] + ([x.grad] if need_x else [])


def both(monkeypatch, layer, *args):
    made = []
    one = Step.whole_step

    def seen(*given):
        made.append(one(*given))
        return made[-1]

    monkeypatch.setattr(Step, "whole_step", seen)
    together = step_of(layer, *args)
    assert [call is not None for call in made] == [True, True]
    monkeypatch.setattr(Step, "whole_step", lambda *given: None)
    return together, step_of(layer, *args)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [1, 3, 16])
@pytest.mark.parametrize(("make", "shape"), CASES)
def test_equals_the_operators(monkeypatch, make, shape, rank, dtype):
    layer = layer_of(make, rank, format="int4" if rank == 16 else "int8")
    for need_x in (True, False):
        for a, b in zip(*both(monkeypatch, layer, torch.randn(shape).to(dtype), need_x), strict=True):
            assert torch.equal(a, b)
        monkeypatch.undo()


def test_with_an_input_scale_and_an_integer_adapter(monkeypatch):
    layer = layer_of(lambda: nn.Linear(24, 20), rank=4, alpha=4.0, integer_adapter=True)
    layer.base.input_scale = torch.rand(24) + 0.5
    for a, b in zip(*both(monkeypatch, layer, torch.randn(9, 24)), strict=True):
        assert torch.equal(a, b)


def test_the_same_for_one_thread_and_two():
    layer, x = layer_of(lambda: nn.Linear(64, 96), 16), torch.randn(130, 64)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(step_of(layer, x))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_names_the_layer_whose_numbers_are_not_finite(value):
    layer, x = layer_of(lambda: nn.Linear(8, 8)), torch.randn(4, 8)
    x[2, 3] = value
    with pytest.raises(UserError, match=r"block\.to_q: its input"):
        layer(x)
    y = layer(torch.randn(4, 8, requires_grad=True))
    with pytest.raises(UserError, match=r"block\.to_q: its gradient"):
        y.backward(x)


def test_is_laid_out_once_a_shape_and_again_for_other_weights():
    layer, x = layer_of(lambda: nn.Linear(24, 20), alpha=5.0), torch.randn(9, 24)
    step = layer._step()
    assert step.whole_step(x, x.shape) is step.whole_step(x, x.shape)
    step_of(layer, x)
    assert layer._step() is step
    layer.alpha = 7.0
    assert layer._step() is not step
