"""One contract for all methods."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open

import intaglio
from intaglio.adapters.file import read_header
from intaglio.errors import CannotMerge, NoMatch, Problems, UnknownChoice, UserError, WrongBase
from intaglio.kernels.row_quantizer import quantize_rows
from intaglio.layers.frozen import QuantizedLayer
from intaglio.layers.integer_path import install_integer_path
from intaglio.layers.kinds import MergeableLayer
from intaglio.layers.names import adapter_layers, find_layers, replace
from intaglio.layers.quantize_model import base_hash, quantize_model
from intaglio.methods.base import ATTENTION_TARGETS
from intaglio.methods.registry import METHODS, build_method
from tiny_models import make_unet

ALL = {
    intaglio.Full(): None,
    intaglio.Lora(rank=4, alpha=8.0): None,
    intaglio.QLora(rank=4, alpha=2.0): "nf4",
    intaglio.QLora(rank=2): "int4_g64",
    intaglio.Peqa(): "int4",
    intaglio.TuneQDM(num_intervals=1): "int8",
    intaglio.TuneQDM(num_intervals=4): "int4",
    intaglio.TuneQDM(num_intervals=2, input_scales=False): "int4",
    intaglio.TuneQDM(num_intervals=2, relative_scales=False): "int4",
    intaglio.ScaledLora(rank=2, alpha=4.0): "int4",
    intaglio.SmoothScales(num_nodes=3): "int4",
    intaglio.Int8Lora(rank=4, alpha=8.0): "int8",
    intaglio.Int8Lora(rank=2, scale="power_of_two", rounding="stochastic"): "int4",
}
"""A method, and the base that it is tried over. In float, but for what is integer by definition."""
every_method = pytest.mark.parametrize("method", list(ALL), ids=str)


def compute_of(method):
    return "float" if method.needs_base and not method.integer_only else "auto"


def attach(model, method, **options):
    targets = ATTENTION_TARGETS if method.integer_only else None
    options = {"base": ALL.get(method), "compute": compute_of(method), "targets": targets, **options}
    return intaglio.attach(model, method, **options)


def load_adapter(model, folder):
    return intaglio.load_adapter(model, folder, compute=compute_of(build_method(read_header(folder).method, {})))


def run(model, batch):
    sample, timesteps, text = batch
    return model(sample, timesteps, text).sample


def quantized_twin(method):
    """The base alone."""
    model = make_unet().eval()
    if method.needs_base:
        quantize_model(model, attach(make_unet(), method).header().base)
    return model


class IntegerBase(torch.nn.Module):
    """A quantized Linear whose input is rounded to INT8 by token: the base of `int8_lora`."""

    def __init__(self, base, power_of_two):
        super().__init__()
        self.base, self.power_of_two = base, power_of_two

    def forward(self, x):
        if self.power_of_two:
            scale = 2.0 ** (x.abs().amax(-1, keepdim=True) / 127).log2().ceil()
            codes = (x / scale).round()
        else:
            codes, scale = quantize_rows(x.reshape(-1, 1, x.shape[-1]))
            codes, scale = codes.view(x.shape), scale.view(*x.shape[:-1], 1)
        codes = codes.double() @ (self.base.dequantized(torch.float64) / self.base.scale).round().T
        value = codes.float() * scale * self.base.scale[:, 0]
        return value if self.base.bias is None else value + self.base.bias


def twin_at_start(method):
    """What the model must equal before training."""
    model = quantized_twin(method).requires_grad_(False)
    install_integer_path(model, method.integer_only)
    if isinstance(method, intaglio.Int8Lora):
        for name in attach(make_unet(), method).layers:
            replace(model, name, IntegerBase(model.get_submodule(name), method.scale == "power_of_two"))
    return model


def disturb(adapter, scale=0.1):
    """Move every trainable parameter, as training would."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += scale * torch.randn_like(parameter)


@every_method
def test_start_equals_the_base_exactly(method, batch):
    model = make_unet().eval()
    attach(model, method)
    with torch.no_grad():
        expected, got = run(twin_at_start(method), batch), run(model, batch)
    assert torch.equal(expected, got)


@every_method
def test_every_trainable_parameter_learns_and_nothing_else_moves(method, batch):
    model = make_unet()
    adapter = attach(model, method)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = run(model, batch).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    trainable = set(adapter.named_parameters())
    assert sum(p.numel() for p in adapter.parameters()) == adapter.num_parameters
    for name, tensor in model.state_dict().items():
        if name not in trainable:
            assert torch.equal(tensor, before[name]), f"{name} is frozen but moved"


@every_method
def test_save_and_load(method, batch, tmp_path):
    model = make_unet().eval()
    adapter = attach(model, method)
    disturb(adapter)
    path = adapter.save(tmp_path)
    assert path.suffix == ".safetensors"
    other = make_unet().eval()
    loaded = load_adapter(other, tmp_path)
    assert loaded.method == adapter.method
    for name, parameter in adapter.named_parameters().items():
        assert torch.equal(parameter, loaded.named_parameters()[name])
    with torch.no_grad():
        assert torch.equal(run(model, batch), run(other, batch))


@every_method
def test_detach_gives_the_base_back(method, batch):
    model = make_unet().eval()
    adapter = attach(model, method)
    if isinstance(method, intaglio.Full):
        with pytest.raises(UserError, match="load the model again"):
            adapter.detach()
        return
    disturb(adapter)
    adapter.detach()
    assert not adapter_layers(model)
    with torch.no_grad():
        assert torch.equal(run(model, batch), run(quantized_twin(method), batch))
    attach(model, method)  # and it can be attached again


def float_twin(method, adapter):
    """The same weights and adapter, computing in float."""
    if not isinstance(method, intaglio.Int8Lora):
        return adapter.model
    twin = attach(make_unet().eval(), intaglio.QLora(rank=method.rank, alpha=method.alpha), base=ALL[method])
    with torch.no_grad():
        for name, parameter in twin.named_parameters().items():
            parameter.copy_(adapter.named_parameters()[name])
    return twin.model


@every_method
@pytest.mark.parametrize("dequantize", [False, True])
def test_merge_folds_exactly_or_refuses(method, dequantize, batch):
    model = make_unet().eval()
    adapter = attach(model, method)
    disturb(adapter)
    with torch.no_grad():
        expected = run(float_twin(method, adapter), batch)
    layers = adapter_layers(model)
    mergeable = all(isinstance(layer, MergeableLayer) for layer in layers.values())
    has_lora = hasattr(method, "rank")
    if not mergeable or (has_lora and method.needs_base and not dequantize):
        before = {n: t.clone() for n, t in model.state_dict().items()}
        with pytest.raises(CannotMerge, match=r"Keep the adapter file"):
            adapter.merge(dequantize=dequantize)
        assert all(torch.equal(before[n], t) for n, t in model.state_dict().items()), (
            "a refused merge changed something"
        )
        return
    adapter.merge(dequantize=dequantize)
    assert not adapter_layers(model)
    quantized = [m for _, m in find_layers(model) if isinstance(m, QuantizedLayer)]
    assert bool(quantized) == (method.needs_base and not dequantize)
    with torch.no_grad():
        # float32 rounds products and sums in another order: about 30 layers deep, outputs of order 1
        torch.testing.assert_close(run(model, batch), expected, rtol=1e-4, atol=1e-4)


@every_method
def test_one_backward_per_gradient_checkpoint(method, batch):
    """The same gradients with and without recomputation."""
    gradients = []
    for checkpointing in (False, True):
        model = make_unet().train()
        adapter = attach(model, method)
        disturb(adapter)
        if checkpointing:
            model.enable_gradient_checkpointing()
        run(model, batch).square().sum().backward()
        gradients.append({n: p.grad for n, p in adapter.named_parameters().items()})
    for name, expected in gradients[0].items():
        got = gradients[1][name]
        assert (got is None) == (expected is None), name
        if expected is not None:
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6, msg=name)


@every_method
def test_the_file_says_what_it_is(method, tmp_path):
    adapter = attach(make_unet(), method)
    with safe_open(adapter.save(tmp_path), framework="pt") as file:
        header = json.loads(file.metadata()["intaglio"])
    assert header["schema_version"] == 1
    assert header["method"] == method.name
    assert (header["base"] is not None) == method.needs_base
    if method.needs_base:
        assert header["base"]["format"] == ALL[method]
        assert header["base_hash"] == base_hash(adapter.model)


@pytest.mark.parametrize("method", [m for m in ALL if m.needs_base], ids=str)
def test_a_quantized_model_is_used_as_it_is(method, batch):
    model = make_unet()
    record = attach(make_unet(), method).header().base
    quantize_model(model, record)
    codes = {n: m.qdata for n, m in find_layers(model) if isinstance(m, QuantizedLayer)}
    adapter = attach(model, method, base=None)
    assert adapter.settled.base == record
    for name, module in find_layers(model):
        if isinstance(module, QuantizedLayer):
            assert module.qdata is codes[name]
    adapter.detach()
    with pytest.raises(UserError, match="base = 'int5', but this UNet2DConditionModel is quantized to"):
        attach(model, method, base="int5")


def test_another_base_is_refused(tmp_path):
    attach(make_unet(0), intaglio.Peqa()).save(tmp_path)
    other = make_unet(1)
    with pytest.raises(WrongBase, match="exact only on the integers that it was trained on"):
        load_adapter(other, tmp_path)
    assert not adapter_layers(other)


def test_an_adapter_of_other_shapes_is_refused_with_all_problems(tmp_path):
    attach(make_unet(), intaglio.Lora(rank=2), targets=["to_q", "to_k"]).save(tmp_path)
    adapter = attach(make_unet(), intaglio.Lora(rank=4), targets=["to_q", "to_v"])
    with pytest.raises(Problems) as caught:
        adapter.load(tmp_path)
    text = "\n".join(caught.value.problems)
    assert "missing: " in text
    assert "unexpected: " in text
    assert "expected (" in text


def test_a_folder_holds_one_adapter(tmp_path):
    """Else another method trained into the same folder would leave the old file for the loader to find."""
    attach(make_unet(), intaglio.Peqa(), base="int8").save(tmp_path)
    old = (tmp_path / "adapter.safetensors").read_bytes()
    lora = attach(make_unet(), intaglio.QLora(rank=2), base="int8")
    lora.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["pytorch_lora_weights.safetensors"]
    assert load_adapter(make_unet(), tmp_path).method == lora.method
    (tmp_path / "adapter.safetensors").write_bytes(old)
    with pytest.raises(UserError, match="two adapters"):
        load_adapter(make_unet(), tmp_path)
    load_adapter(make_unet(), tmp_path / "pytorch_lora_weights.safetensors")
    attach(make_unet(), intaglio.Peqa(), base="int8").save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["adapter.safetensors"]


def test_targets():
    model = make_unet()
    with pytest.raises(NoMatch, match=r"'to_qq' matches no Linear or Conv2d of this model \(did you mean 'to_q'\?\)"):
        attach(model, intaglio.Lora(), targets=["to_qq"])
    adapter = attach(model, intaglio.Peqa(), base="int8", targets=["to_q"])
    assert all(t.endswith("to_q") for t in adapter.layers)
    quantized = [n for n, m in find_layers(model) if isinstance(m, QuantizedLayer)]
    assert any(n.endswith("conv1") for n in quantized), "targets never limit quantization"
    with pytest.raises(UserError, match="has an adapter already"):
        attach(model, intaglio.Peqa())


def test_all_targets_every_layer():
    adapter = attach(make_unet(), intaglio.Lora(rank=1), targets=["all"])
    assert adapter.layers == [n for n, _ in find_layers(make_unet())]
    with pytest.raises(NoMatch, match="'all' stands alone"):
        attach(make_unet(), intaglio.Lora(rank=1), targets=["all", "to_q"])


def test_float_kept_layers_carry_scales_too():
    model = make_unet()
    adapter = attach(model, intaglio.TuneQDM(num_intervals=2))
    total = dict(find_layers(make_unet()))
    assert len(adapter.layers) == len(total)
    channels = sum(m.weight.shape[0] for m in total.values())
    inputs = sum(m.in_features if isinstance(m, torch.nn.Linear) else m.in_channels for m in total.values())
    assert adapter.num_parameters == 2 * (channels + inputs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: intaglio.Lora(rank=0), "rank: input should be greater than or equal to 1, got 0"),
        (lambda: intaglio.QLora(alpha=-1.0), "alpha: input should be greater than 0, got -1.0"),
        (lambda: intaglio.TuneQDM(num_intervals=0), "num_intervals: input should be greater than or equal to 1, got 0"),
        (lambda: attach(make_unet(), intaglio.Peqa(), base="int3"), "unknown format 'int3'"),
        (lambda: build_method("tuneqmd", {}), "unknown method 'tuneqmd' (did you mean 'tuneqdm'?)"),
        (lambda: build_method("lora", {"rnak": 3}), "no option 'rnak' (did you mean 'rank'?); it has rank, alpha"),
    ],
)
def test_wrong_options_say_the_rule(make, message):
    with pytest.raises(UserError) as caught:
        make()
    assert message in str(caught.value)


def test_all_methods_are_covered():
    assert {m.name for m in ALL} == set(METHODS)
    assert issubclass(UnknownChoice, UserError)


@every_method
def test_an_unpacked_base_changes_rounding_alone(method, batch, tmp_path):
    model = make_unet().eval()
    adapter = attach(model, method)
    disturb(adapter)
    with torch.no_grad():
        before = run(model, batch)
        adapter.save(tmp_path)
        adapter.unpack_base()
        torch.testing.assert_close(run(model, batch), before, atol=1e-5, rtol=0)  # sums in another order
    packed = any(isinstance(m, QuantizedLayer) for m in model.modules())
    assert packed == isinstance(method, intaglio.Int8Lora)
    adapter.load(tmp_path)  # it still knows its base
    if method.needs_base:
        for leave in (adapter.detach, adapter.merge):
            with pytest.raises(UserError, match=r"after unpack_base\(\): the codes are gone. Load the model again"):
                leave()
