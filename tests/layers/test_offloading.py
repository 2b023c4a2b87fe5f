"""Offloaded layers: their tensors are there only while they are called, and the numbers are the same."""

import pytest
import torch
from accelerate import cpu_offload
from diffusers.hooks import apply_group_offloading
from torch import nn

import intaglio
from intaglio.layers.frozen import quantize_layer
from intaglio.layers.integer_path import set_compute
from intaglio.layers.low_rank import LowRankLayer
from intaglio.layers.scaled import ScaledLayer
from intaglio.quantizers.formats import parse_format
from tiny_models import make_unet

METHODS = [
    intaglio.Lora(rank=2),
    intaglio.QLora(rank=2),
    intaglio.Peqa(),
    intaglio.TuneQDM(num_intervals=4),
    intaglio.ScaledLora(rank=2),
    intaglio.SmoothScales(),
    intaglio.Int8Lora(rank=2),
    intaglio.Int8Lora(rank=2, rounding="stochastic"),
]


class Away:
    """Brings a module's tensors at each call of it and takes them away after, as offloading to a device does."""

    def __init__(self, module):
        self.module, self.plain = module, module.forward
        self.tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        self.values = [t.detach().clone() for t in self.tensors]
        self.take()
        module.forward = self

    def __call__(self, *args, **kwargs):
        for tensor, value in zip(self.tensors, self.values, strict=True):
            tensor.data = value.clone()  # the same object, at another address, of the same version
        try:
            return self.plain(*args, **kwargs)
        finally:
            self.take()

    def take(self):
        for tensor, value in zip(self.tensors, self.values, strict=True):
            tensor.data = torch.full_like(value, 85)


def sequential(model):
    cpu_offload(model, torch.device("cpu"))


def sequential_with_buffers(model):
    cpu_offload(model, torch.device("cpu"), offload_buffers=True)


def groups(model):
    apply_group_offloading(model, onload_device=torch.device("cpu"), offload_type="leaf_level")


def taken(model):
    for module in model.modules():
        if next(module.parameters(recurse=False), None) is not None and type(module).__name__ != "UNet2DConditionModel":
            Away(module)


def run(model, batch):
    sample, timestep, text = batch
    sample = sample.clone().requires_grad_()
    y = model(sample, timestep, text).sample
    (grad,) = torch.autograd.grad(y.square().sum(), sample)
    return y.detach(), grad


@pytest.mark.parametrize("offload", [sequential, sequential_with_buffers, groups, taken])
@pytest.mark.parametrize("compute", ["integer", "float"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_denoiser_gives_the_same(method, compute, offload, batch):
    if compute == ("integer" if method.name == "lora" else "float" if method.name == "int8_lora" else None):
        pytest.skip("another method computes so")
    model = make_unet()
    targets = ["to_q", "to_k", "to_v", "conv1", "conv_in", "time_emb_proj"]
    base = None if method.name == "lora" else intaglio.Base(range_search="absmax")
    adapter = intaglio.attach(model, method, targets=targets, base=base, compute=compute)
    for i, parameter in enumerate(adapter.parameters()):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
    expected = run(model, batch)
    offload(model)
    for _ in range(2):
        if offload is taken:  # what torch itself saves for backward of the norms goes as well
            with torch.no_grad():
                assert torch.equal(model(*batch).sample, expected[0])
            continue
        for got, wanted in zip(run(model, batch), expected, strict=True):
            assert torch.equal(got, wanted)


@pytest.mark.parametrize("kind", [nn.Linear, lambda i, o: nn.Conv2d(i, o, 1)])
@pytest.mark.parametrize("quantized", [True, False])
def test_hooks_of_the_base_run(kind, quantized):
    """Whoever hooks on to a base sees each call of it, once, and may change what comes out."""
    base = kind(8, 6)
    if quantized:
        base = quantize_layer(base, parse_format("int8"), "mse")
        set_compute(base, "integer")
    base.requires_grad_(False)
    x = torch.randn(2, 8, 3, 3) if isinstance(base, nn.Conv2d) else torch.randn(2, 8)
    seen = []
    for layer in (ScaledLayer(base, train_input=True), LowRankLayer(base, 2, 2.0)):
        expected = layer(x)
        handle = base.register_forward_pre_hook(lambda module, args: seen.append(module))
        assert torch.equal(layer(x), expected)
        assert seen == [base]
        handle.remove()
        seen.clear()


def test_weights_that_are_elsewhere_are_refused():
    """The address of a meta tensor is 0, which the kernels read as no bias."""
    layer = quantize_layer(nn.Linear(8, 6), parse_format("int8"), "mse")
    set_compute(layer, "integer")
    layer.bias = nn.Parameter(torch.empty(6, device="meta"), requires_grad=False)
    with pytest.raises(ValueError, match="the input is on cpu, a tensor of the frozen weight on meta"):
        layer(torch.randn(2, 8))


@pytest.mark.parametrize("integer", [False, True])
def test_a_backward_pass_after_the_tensors_have_gone(integer):
    layer = quantize_layer(nn.Linear(8, 6), parse_format("int8"), "mse")
    set_compute(layer, "integer" if integer else "float")
    x = torch.randn(2, 8, requires_grad=True)
    (expected,) = torch.autograd.grad(layer(x).sum(), x)
    Away(layer)
    assert torch.equal(torch.autograd.grad(layer(x).sum(), x)[0], expected)
