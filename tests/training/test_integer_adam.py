"""The optimizer against a plain twin bit for bit, against AdamW of float32 moments within a bound, and resumed."""

import pytest
import torch
from torch import nn

import intaglio
from intaglio.errors import UserError
from intaglio.layers.codes_tensor import CodesTensor
from intaglio.layers.names import adapter_layers
from intaglio.methods.base import ATTENTION_TARGETS
from intaglio.quantizers.activations import quantize_groups, seed_of
from intaglio.training.integer_adam import BLOCK, IntegerAdamW
from intaglio.training.run import train
from tiny_models import make_unet


def plain_step(value, grad, state, number, lr, decay):
    """One step, element by element where it matters: `state` has the moments as (codes, scale) of padded blocks."""
    beta1, beta2, eps, count = 0.9, 0.999, 1e-8, grad.numel()
    seed = seed_of(grad)

    def read(name, least):
        codes, scale = state[name]
        return (codes.float().clamp(min=least) * scale).flatten()[:count].view(grad.shape)

    def store(name, values, seed):
        flat = torch.zeros(-(-count // BLOCK) * BLOCK)
        flat[:count] = values.flatten()
        blocks = flat.view(-1, BLOCK)
        state[name] = quantize_groups(blocks, 8, len(blocks), power_of_two=False, seed=seed)

    m = torch.lerp(read("m", -127), grad, 1 - beta1)
    v = torch.addcmul(read("root", 0).square() * beta2, grad, grad, value=1 - beta2)
    store("m", m, seed)
    store("root", v.sqrt(), seed + 1)
    root = read("root", 0.5) / (1 - beta2**number) ** 0.5 + eps
    value = torch.addcdiv(value * (1 - lr * decay), read("m", -127), root, value=-lr / (1 - beta1**number))
    return value, seed + 2


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 67), (2, 3, 3, 3)])
def test_equals_the_plain_twin(shape):
    parameter = nn.Parameter(CodesTensor.of(torch.randn(shape), 0))
    optimizer = IntegerAdamW([parameter], lr=1e-2, weight_decay=0.1)
    twin = CodesTensor.of(parameter.values(), 0)
    blocks = -(-parameter.numel() // BLOCK)
    state = {n: (torch.zeros(blocks, BLOCK, dtype=torch.int8), torch.ones(blocks, 1)) for n in ("m", "root")}
    for number in range(1, 5):
        grad = torch.randn(shape, generator=torch.Generator().manual_seed(number)) * 1e-3
        parameter.grad = grad.clone()
        optimizer.step()
        value, seed = plain_step(twin.values(), grad, state, number, 1e-2, 0.1)
        twin.round_to(value, seed)
        assert torch.equal(parameter.codes, twin.codes)
        assert torch.equal(parameter.scale, twin.scale)
    held = sum(t.nbytes for t in optimizer.state[parameter].values())
    assert held == 4 + 2 * blocks * (BLOCK + 4), "two bytes a number and two scales a block, beside the step"


def test_finds_a_minimum_as_adamw_does():
    """A quadratic bowl of 256 x 16 numbers, 400 noisy gradients: the distance left is noise of the gradient and of the
    grid, whose step at a largest value near 3 is 2^-5."""
    target = torch.randn(16, 256)
    left = {}
    for kind in ("float", "codes"):
        start = torch.zeros(16, 256)
        parameter = nn.Parameter(start if kind == "float" else CodesTensor.of(start, 0))
        optimizer = (torch.optim.AdamW if kind == "float" else IntegerAdamW)([parameter], lr=0.02, weight_decay=0.0)
        noise = torch.Generator().manual_seed(0)
        for _ in range(400):
            value = parameter.detach().clone()
            parameter.grad = value - target + 0.1 * torch.randn(target.shape, generator=noise)
            optimizer.step()
        left[kind] = (parameter.detach().clone() - target).square().mean().sqrt().item()
    assert left["codes"] <= left["float"] + 2.0**-5


def test_a_resumed_run_goes_on_bit_for_bit_and_the_file_is_a_lora_file(resumed):
    options = {"method": "int8_lora", "rank": 2, "scale": "power_of_two", "targets": ("to_q", "to_v")}
    whole, got = resumed(4, integer_adapter=True, **options)
    torch.testing.assert_close(got, whole, rtol=0, atol=0)
    assert {t.dtype for t in got.values()} == {torch.float32}
    assert any(t.any() for n, t in got.items() if "lora_B" in n), "it trained"


def test_pairs_are_held_as_codes(tmp_path):
    method = intaglio.Int8Lora(rank=2, integer_adapter=True)
    adapter = intaglio.attach(make_unet(), method, targets=ATTENTION_TARGETS, range_search="absmax")
    assert all(isinstance(p, CodesTensor) for p in adapter.parameters())
    for layer in adapter_layers(adapter.model).values():
        layer.lora_b.round_to(torch.randn(layer.lora_b.shape), None)
    adapter.save(tmp_path)
    plain = intaglio.load_adapter(make_unet(), tmp_path)
    for name, layer in adapter_layers(plain.model).items():
        twin = adapter_layers(adapter.model)[name]
        assert torch.equal(layer.lora_b.codes, twin.lora_b.codes)
        assert torch.equal(layer.lora_a.values(), twin.lora_a.values())
    merged = plain.merge(dequantize=True)
    assert all(torch.isfinite(p).all() for p in merged.parameters())


def test_another_optimizer_is_refused(recipe):
    with pytest.raises(
        UserError, match="integer_adapter has an optimizer of its own, of 8-bit moments; use optimizer adamw"
    ):
        train(recipe(method="int8_lora", rank=2, integer_adapter=True, optimizer="sgd"))
