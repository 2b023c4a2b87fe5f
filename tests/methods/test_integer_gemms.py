"""Methods whose frozen products run in integers, on a whole U-Net."""

import pytest
import torch

import intaglio
from intaglio.errors import UnknownChoice
from intaglio.layers.frozen import QuantizedLayer
from intaglio.methods.registry import build_method, method_options
from tiny_models import make_unet

BOTH = ("output", "grad_input")
METHODS = [
    intaglio.QLora(rank=2, integer_gemms=BOTH),
    intaglio.Peqa(integer_gemms=BOTH),
    intaglio.TuneQDM(num_intervals=4, integer_gemms=BOTH),
]


def gradients(method, batch, checkpointing=False):
    sample, timestep, text = batch
    model = make_unet().train()
    adapter = intaglio.attach(model, method, range_search="absmax")
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
def test_a_step_follows_the_float_one(method, batch):
    """INT8 against float32, some thirty products deep, each with noise of about 1 % that is independent."""
    in_float = build_method(method.name, {**method_options(method), "integer_gemms": ()})
    adapter, loss, gradient = gradients(method, batch)
    _, float_loss, float_gradient = gradients(in_float, batch)
    assert 0 < abs(loss - float_loss) < 0.02 * float_loss
    assert (gradient - float_gradient).norm() < 0.1 * float_gradient.norm()
    assert torch.equal(gradients(method, batch, checkpointing=True)[2], gradient)
    adapter.detach()
    assert all(m.compute == "float" for m in adapter.model.modules() if isinstance(m, QuantizedLayer))


def test_the_file_keeps_the_policy(tmp_path):
    intaglio.attach(make_unet(), METHODS[0]).save(tmp_path)
    loaded = intaglio.load_adapter(make_unet(), tmp_path)
    assert loaded.method.integer_gemms == BOTH
    assert {m.compute for m in loaded.model.modules() if isinstance(m, QuantizedLayer)} == {"integer"}


def test_an_unknown_product_is_refused():
    with pytest.raises(UnknownChoice, match=r"unknown integer GEMM 'grad_weight' .*; known: grad_input, output"):
        intaglio.QLora(integer_gemms=("grad_weight",))
