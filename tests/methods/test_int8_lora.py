"""`int8_lora` beyond the contract: which layers compute in integers, and how near its step is to qlora's."""

import pytest
import torch
from torch import nn

import intaglio
from intaglio.adapters.file import LORA_FILE
from intaglio.errors import UserError
from intaglio.layers.int8_lora.layer import Int8LoraLayer
from intaglio.layers.low_rank import LowRankLayer
from intaglio.layers.names import adapter_layers
from intaglio.methods.base import ATTENTION_TARGETS
from intaglio.methods.registry import METHODS
from intaglio.quantizers.base import Base
from tiny_models import make_unet


def test_named_layers_stay_float(tmp_path):
    one = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    method = intaglio.Int8Lora(rank=2, float_layers=(one, "to_v"))
    adapter = intaglio.attach(make_unet(), method, targets=ATTENTION_TARGETS, range_search="absmax")
    assert adapter.settled.base.format == "int4", "a float model is quantized to the method's default"
    for name, layer in adapter_layers(adapter.model).items():
        is_float = name == one or name.endswith("to_v")
        assert type(layer) is (LowRankLayer if is_float else Int8LoraLayer), name
        assert layer.base.compute == ("float" if is_float else "integer")
    assert adapter.save(tmp_path).name == LORA_FILE
    loaded = intaglio.load_adapter(make_unet(), tmp_path)
    assert loaded.method == adapter.method
    assert loaded.method.float_layers == method.float_layers


def test_convolutions_and_layers_without_codes():
    adapter = intaglio.attach(
        make_unet(), intaglio.Int8Lora(rank=2), targets=["conv1", "conv_in"], range_search="absmax"
    )
    layers = adapter_layers(adapter.model)
    assert type(layers["conv_in"]) is LowRankLayer, "the first layer is kept float"
    convolutions = [layer for name, layer in layers.items() if name.endswith("conv1")]
    assert convolutions
    assert all(type(c) is Int8LoraLayer and isinstance(c.base, nn.Conv2d) for c in convolutions)


def test_attention_in_integers_is_an_option(batch):
    sample, timesteps, text = batch
    outputs = []
    for chosen in (False, True):
        model = make_unet()
        method = intaglio.Int8Lora(rank=2, integer_attention=chosen)
        intaglio.attach(model, method, targets=ATTENTION_TARGETS, range_search="absmax")
        found = {getattr(m.processor, "int8", None) for m in model.modules() if hasattr(m, "processor")}
        assert found == {chosen}
        outputs.append(model(sample, timesteps, text).sample)
    outputs[1].square().mean().backward()
    difference = (outputs[0] - outputs[1]).norm() / outputs[0].norm()
    assert 0 < difference < 0.05, "INT8 noise, and where layers round, other roundings after it"


@pytest.mark.parametrize("options", [{}, {"scale": "power_of_two", "rounding": "stochastic"}], ids=str)
def test_a_step_is_near_that_of_qlora(options, batch):
    """INT8 noise of about 1 % a GEMM (benchmarks/results/int8_lora_errors.md), through all layers."""
    sample, timesteps, text = batch
    gradients, losses = [], []
    for method in (
        intaglio.QLora(rank=4),
        intaglio.Int8Lora(rank=4, **options),
    ):
        compute = "integer" if method.integer_only else "float"
        model = make_unet()
        torch.manual_seed(1)
        how = {"base": Base("int8", "absmax"), "targets": ATTENTION_TARGETS, "compute": compute}
        adapter = intaglio.attach(model, method, **how)
        with torch.no_grad():
            for name, parameter in sorted(adapter.named_parameters().items()):
                if name.endswith("lora_b"):
                    parameter.normal_(std=0.02)
        loss = (model(sample, timesteps, text).sample - sample).square().mean()
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in adapter.parameters()]))
    exact, integer = gradients
    assert 0 < abs(losses[1] - losses[0]) < 0.02 * losses[0]
    assert (integer - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation_bits": 9}, "activation_bits: input should be less than or equal to 8, got 9"),
        ({"gradient_bits": 1}, "gradient_bits: input should be greater than or equal to 2, got 1"),
        ({"rounding": "up"}, "rounding: input should be 'nearest' or 'stochastic', got 'up'"),
        ({"scale": "int"}, "scale: input should be 'float' or 'power_of_two', got 'int'"),
        ({"granularity": "row"}, "granularity: input should be 'token' or 'tensor', got 'row'"),
        ({"rank": 0}, "rank: input should be greater than or equal to 1, got 0"),
    ],
)
def test_wrong_options_say_the_rule(options, message):
    with pytest.raises(UserError) as caught:
        METHODS["int8_lora"](**options)
    assert message in str(caught.value)


def test_a_base_that_it_cannot_train_over_is_refused():
    model = make_unet()
    intaglio.attach(model, intaglio.Peqa(), base="int4_g64", range_search="absmax").detach()
    with pytest.raises(UserError, match="int8_lora cannot train over int4_g64"):
        intaglio.attach(model, intaglio.Int8Lora())
    with pytest.raises(UserError, match="int8_lora cannot train over nf4"):
        intaglio.attach(make_unet(), intaglio.Int8Lora(), base="nf4")
