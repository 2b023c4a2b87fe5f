"""What is left open is settled in one place: device, kernels and format decide, and say why."""

import pytest
import torch

import intaglio
from intaglio.errors import Problems, Slower, UserError
from intaglio.kernels.weight_product import by_torch
from intaglio.layers.frozen import QuantizedLayer
from intaglio.layers.names import adapter_layers
from intaglio.layers.quantize_model import base_format
from intaglio.methods.settle import default_method_name, settle
from intaglio.quantizers.base import Base
from tiny_models import make_unet

METHODS = [intaglio.QLora(rank=2), intaglio.Peqa(), intaglio.TuneQDM(num_intervals=4)]


def gradients(method, batch, compute="auto", checkpointing=False):
    sample, timestep, text = batch
    model = make_unet().train()
    adapter = intaglio.attach(model, method, base=Base("int4", "absmax"), compute=compute)
    for i, parameter in enumerate(adapter.parameters()):
        generator = torch.Generator().manual_seed(i)
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    if checkpointing:
        model.enable_gradient_checkpointing()
    loss = model(sample, timestep, text).sample.square().mean()
    loss.backward()
    found = [p.grad.flatten() for p in adapter.parameters() if p.grad is not None]
    return adapter, loss.item(), torch.cat(found)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_an_integer_step_follows_the_float_one(method, batch):
    """INT8 against float32, some thirty GEMMs deep, each with noise of about 1 % that is independent."""
    adapter, loss, gradient = gradients(method, batch)
    assert adapter.settled.compute == "integer", "the default is the fast arithmetic"
    _, float_loss, float_gradient = gradients(method, batch, "float")
    assert 0 < abs(loss - float_loss) < 0.02 * float_loss
    assert (gradient - float_gradient).norm() < 0.1 * float_gradient.norm()
    assert torch.equal(gradients(method, batch, checkpointing=True)[2], gradient)
    adapter.detach()
    assert all(m.compute == "float" for m in adapter.model.modules() if isinstance(m, QuantizedLayer))


def without_kernels(monkeypatch, exact):
    """As on a machine without compiled kernels; torch's INT8 product adds exactly for values of at most `exact`."""
    monkeypatch.setattr("intaglio.kernels.binding.path_in_use", lambda: "torch")
    monkeypatch.setattr(by_torch.int_mm, "is_exact", lambda largest: largest <= exact)


@pytest.mark.parametrize(("base", "largest"), [("int4", 8), ("int8", 128)])
def test_integers_without_kernels_where_torch_is_exact(base, largest, monkeypatch):
    without_kernels(monkeypatch, exact=largest)
    assert settle("qlora", base=base, device="cpu").compute == "integer"
    without_kernels(monkeypatch, exact=largest - 1)
    settled = settle("qlora", base=base, device="cpu")
    assert settled.compute == "float"
    assert "not exact on this processor" in str(settled)


@pytest.mark.parametrize("base", ["nf4", "int4_g64", "int4_asym", "int8_asym"])
def test_float_without_kernels_where_torch_would_unpack(base, monkeypatch):
    without_kernels(monkeypatch, exact=128)
    settled = settle("qlora", base=base, device="cpu")
    assert settled.compute == "float"
    assert "would unpack the base at every call" in str(settled)
    with pytest.warns(Slower, match="would unpack"):
        intaglio.attach(make_unet(), intaglio.QLora(rank=2), base=base, range_search="absmax")


def test_the_device_decides_the_method():
    assert default_method_name("cpu") == "int8_lora"
    assert default_method_name("cuda:0") == "qlora"
    settled = settle(device="cuda:0")
    assert (settled.method.name, settled.compute) == ("qlora", "float")
    assert str(settled).endswith("computed in float on cuda:0 (no INT8 kernels for cuda:0 yet)")
    assert settle("int8_lora", device="mps").compute == "integer", "it is integer arithmetic by definition"


def test_one_line_says_what_was_chosen():
    assert str(settle("tuneqdm", device="cpu")) == "tuneqdm over int4, computed in integers on cpu"
    assert str(settle(intaglio.QLora(rank=8), base="nf4", compute="float", device="cpu")) == (
        "qlora(rank=8) over nf4, computed in float on cpu"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "lora", "compute": "integer"}, "method lora trains beside float weights"),
        ({"method": "int8_lora", "compute": "float"}, "int8_lora is integer arithmetic; use qlora for float"),
        ({"method": "qlora", "compute": "int"}, "unknown compute 'int'"),
        ({"method": "qlora", "base": "int3"}, "unknown format 'int3'"),
        (
            {"method": "qlora", "base": "int8", "present": "int4"},
            "base = 'int8', but this model is quantized to 'int4'",
        ),
        ({"method": "full", "present": "int4"}, "load the float model, or use int8_lora"),
    ],
)
def test_what_does_not_go_together_is_said(arguments, message):
    with pytest.raises(Problems) as caught:
        settle(**{"device": "cpu", **arguments})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda model: intaglio.attach(model, intaglio.QLora(), targets=["to_qq"]),
        lambda model: intaglio.attach(model, intaglio.Peqa(), base="int3"),
        lambda model: intaglio.attach(model, intaglio.Int8Lora(), base="nf4"),
        lambda model: _break_a_weight(model),
    ],
)
def test_a_failed_attach_leaves_the_model_as_it_was(wrong, batch):
    model, twin = make_unet(), make_unet()
    with pytest.raises(UserError):
        wrong(model)
    assert base_format(model) is None
    assert not adapter_layers(model)
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in twin.parameters()]
    assert [type(m) for m in model.modules()] == [type(m) for m in twin.modules()]


def _break_a_weight(model):
    with torch.no_grad():
        model.mid_block.resnets[0].conv2.weight[0, 0, 0, 0] = float("nan")
    intaglio.attach(model, intaglio.QLora(rank=2))


def test_options_of_the_version_before_are_accepted():
    with pytest.warns(DeprecationWarning, match=r"QLora\(base, integer_gemms\): give base= and compute= to attach"):
        method = intaglio.QLora(rank=2, base="int8", integer_gemms=())
    adapter = intaglio.attach(make_unet(), method, range_search="absmax")
    assert (adapter.settled.base.format, adapter.settled.compute) == ("int8", "float")
    assert adapter.method == intaglio.QLora(rank=2)
    assert intaglio.QuantizedLora is intaglio.Int8Lora
