"""Adapters through every format and back; from outside the package; going on from a file."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open

import intaglio
from intaglio.adapters import formats
from intaglio.adapters.header import read_header
from intaglio.adapters.start import read_adapter, start_from
from intaglio.errors import Problems, UserError
from tiny_models import make_unet


def disturbed(model, method, **options):
    adapter = intaglio.attach(model, method, **options)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return adapter


def run(model, batch):
    sample, timesteps, text = batch
    with torch.no_grad():
        return model(sample, timesteps, text).sample


@pytest.mark.parametrize("name", ["intaglio", "diffusers", "peft"])
def test_a_lora_goes_through_every_format(name, batch, tmp_path):
    adapter = disturbed(make_unet().eval(), intaglio.QLora(rank=3, alpha=5.0), base="int8")
    adapter.save(tmp_path, format=name)
    other = make_unet().eval()
    loaded = intaglio.load_adapter(other, tmp_path)
    assert loaded.method == adapter.method
    assert loaded.header() == adapter.header()
    torch.testing.assert_close(run(other, batch), run(adapter.model, batch), rtol=0, atol=1e-6)


def test_a_file_for_readers_that_know_no_alpha(tmp_path):
    """alpha / rank lies in the weights, and the metadata says that nothing is left to scale."""
    adapter = disturbed(make_unet(), intaglio.Lora(rank=4, alpha=8.0))
    path = adapter.save(tmp_path)
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["lora_adapter_metadata"])
        name, layer = next(iter(adapter.state().components["unet"].low_rank.items()))
        torch.testing.assert_close(file.get_tensor(f"unet.{name}.lora_B.weight"), 2 * layer.up, rtol=0, atol=0)
    assert config["unet.r"] == config["unet.lora_alpha"] == 4


def test_a_checkpoint_gives_back_the_very_bits(tmp_path):
    """5 / 3 is no power of two: folded and taken apart again it would round."""
    adapter = disturbed(make_unet(), intaglio.Lora(rank=3, alpha=5.0))
    adapter.save(tmp_path, exact=True)
    loaded = intaglio.load_adapter(make_unet(), tmp_path)
    for name, parameter in adapter.named_parameters().items():
        assert torch.equal(parameter, loaded.named_parameters()[name])


@pytest.mark.parametrize("take_off", ["detach", "merge"])
@pytest.mark.parametrize("method", [intaglio.QLora(rank=2), intaglio.TuneQDM(num_intervals=1)], ids=str)
def test_what_was_taken_off_is_not_saved_over_what_is_there(take_off, method, tmp_path):
    adapter = intaglio.attach(make_unet(), method, base="int8")
    path = adapter.save(tmp_path)
    before = path.read_bytes()
    adapter.detach() if take_off == "detach" else adapter.merge(dequantize=True)
    with pytest.raises(UserError, match=rf"taken off by {take_off}\(\)"):
        adapter.save(tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("method", [intaglio.Lora(rank=2), intaglio.Peqa()], ids=str)
def test_weights_that_are_not_finite_are_not_saved(method, tmp_path):
    adapter = intaglio.attach(make_unet(), method)
    path = adapter.save(tmp_path)
    before = path.read_bytes()
    with torch.no_grad():
        adapter.parameters()[1].view(-1)[0] = float("nan")
    for name in ("intaglio", "diffusers") if method.name == "lora" else ("intaglio",):
        with pytest.raises(UserError, match="not finite"):
            adapter.save(tmp_path, format=name)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_freezing_the_model_does_not_empty_the_file(tmp_path):
    adapter = intaglio.attach(make_unet(), intaglio.TuneQDM(num_intervals=2), base="int4")
    size = adapter.save(tmp_path).stat().st_size
    adapter.model.requires_grad_(False)
    assert adapter.save(tmp_path).stat().st_size == size
    adapter.load(tmp_path)
    assert adapter.num_parameters > 0


def test_scales_are_refused_by_formats_for_lora(tmp_path):
    adapter = intaglio.attach(make_unet(), intaglio.Peqa(), base="int8")
    with pytest.raises(UserError, match="holds low-rank factors alone"):
        adapter.save(tmp_path, format="diffusers")
    with pytest.raises(UserError, match="unknown adapter format 'difusers'"):
        adapter.save(tmp_path, format="difusers")


class Toy:
    """A format from outside the package: text, one number a line."""

    name, file_name, summary = "toy", "adapter.toy.safetensors", "nobody"

    def claims(self, path, header):
        return "toy" in header.metadata

    def read(self, path, names):
        return formats.format_named("diffusers").read(path, names)

    def write(self, path, state):
        from dataclasses import replace

        formats.format_named("diffusers").write(path, replace(state, metadata={**state.metadata, "toy": "yes"}))


def test_a_format_from_outside(tmp_path, batch, monkeypatch):
    monkeypatch.setattr(formats, "_registered", {})
    formats.register(Toy())
    adapter = disturbed(make_unet().eval(), intaglio.Lora(rank=2))
    path = adapter.save(tmp_path, format="toy")
    assert formats.find_format(path).name == "toy"
    other = make_unet().eval()
    intaglio.load_adapter(other, tmp_path)
    torch.testing.assert_close(run(other, batch), run(adapter.model, batch))
    with pytest.raises(TypeError, match="no adapter format"):
        formats.register(object())  # type: ignore[arg-type]


def test_a_lora_of_another_program_is_attached(tmp_path, batch):
    """Without our header, over a quantized base, with ranks and alphas that differ by layer."""
    adapter = disturbed(make_unet().eval(), intaglio.QLora(rank=4, alpha=2.0), base="int8")
    path = adapter.save(tmp_path, format="peft")
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    name = next(iter(tensors)).removeprefix("base_model.model.").removesuffix(".lora_A.weight")
    key = f"base_model.model.{name}"
    for part, axis in (("lora_A", 0), ("lora_B", 1)):
        tensors[f"{key}.{part}.weight"] = tensors[f"{key}.{part}.weight"].narrow(axis, 0, 1).contiguous()
    config["rank_pattern"], config["alpha_pattern"] = {name: 1}, {name: 7}
    save_file(tensors, path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with torch.no_grad():
        layer = adapter.model.get_submodule(name)
        layer.lora_a[1:], layer.lora_b[:, 1:] = 0, 0
        layer.lora_b *= 7 / 0.5
    assert read_header(path) is None
    other = make_unet().eval()
    from intaglio.layers.quantize_model import BaseRecord, quantize_model

    quantize_model(other, adapter.header().base or BaseRecord())
    loaded = intaglio.load_adapter(other, tmp_path)
    assert loaded.method.name == "qlora"
    torch.testing.assert_close(run(other, batch), run(adapter.model, batch), rtol=0, atol=1e-5)


def test_going_on_with_a_larger_rank_starts_at_the_same_update(tmp_path, batch):
    adapter = disturbed(make_unet().eval(), intaglio.Lora(rank=2, alpha=6.0), targets=["to_q"])
    adapter.save(tmp_path)
    other = make_unet().eval()
    more = intaglio.attach(other, intaglio.Lora(rank=5), targets=["to_q", "to_k"])
    start_from(more, tmp_path)
    torch.testing.assert_close(run(other, batch), run(adapter.model, batch), rtol=0, atol=1e-6)
    assert all(p.grad is None and p.abs().sum() > 0 for n, p in more.named_parameters().items() if n.endswith("lora_a"))
    less = intaglio.attach(make_unet(), intaglio.Lora(rank=1), targets=["to_v"])
    with pytest.raises(Problems, match="the file trains it, this adapter does not"):
        start_from(less, tmp_path)
    narrow = intaglio.attach(make_unet(), intaglio.Lora(rank=1), targets=["to_q"])
    with pytest.raises(Problems, match="use --rank 2"):
        start_from(narrow, tmp_path)


def test_a_whole_convolution(tmp_path, batch):
    """LoCon: every layer, convolutions too, and the files of the programs that know them."""
    adapter = disturbed(make_unet().eval(), intaglio.Lora(rank=2), targets="all")
    adapter.save(tmp_path)
    state = read_adapter(tmp_path)
    assert any(pair.down.ndim == 4 for pair in state.components["unet"].low_rank.values())
    other = make_unet().eval()
    intaglio.load_adapter(other, tmp_path)
    torch.testing.assert_close(run(other, batch), run(adapter.model, batch), rtol=0, atol=1e-6)
