"""docs/extending.md, done: a method, a family, an operation's backend, an adapter format and a metric, each added from
outside of the package by one call, and used."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import intaglio
from intaglio import kernels
from intaglio.adapters import formats
from intaglio.adapters.state import LowRank
from intaglio.families import registry as families
from intaglio.families.sd import StableDiffusion
from intaglio.kernels.column_sums import column_sums
from intaglio.layers.kinds import AdapterLayer
from intaglio.methods.base import METHODS, Method, method
from intaglio.methods.registry import build_method
from intaglio.metrics import registry as metrics
from tiny_models import make_unet

DOC = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")


class BiasLayer(AdapterLayer):
    def __init__(self, base):
        super().__init__()
        self.base = base
        self.shift = nn.Parameter(torch.zeros(base.out_features))

    def forward(self, x):
        return self.base(x) + self.shift


@pytest.fixture
def toy_method():
    @method("toy_bias")
    class ToyBias(Method):
        summary = "a bias beside each projection of attention"
        needs_base = True
        default_targets = ("to_q", "to_v")
        learning_rate = 1e-2

        def adapt(self, layer, context, name):
            return BiasLayer(layer)

    yield ToyBias
    del METHODS["toy_bias"]


def test_a_method(toy_method, batch, tmp_path):
    sample, timesteps, text = batch
    model = make_unet()
    adapter = intaglio.attach(model, build_method("toy_bias", {}))
    assert adapter.settled.base.format == "int4"
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model(sample, timesteps, text).sample.square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    adapter.save(tmp_path)
    again = make_unet()
    intaglio.load_adapter(again, tmp_path)
    with torch.no_grad():
        got, expected = (m(sample, timesteps, text).sample for m in (again, model))
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_a_family(monkeypatch):
    monkeypatch.setattr(families, "_registered", [])

    class Toy(StableDiffusion):
        name = "toy"
        pipelines = ("ToyPipeline",)
        attention_targets = ("to_q",)

    family = intaglio.register_family(Toy())
    assert families.family_of_pipeline("ToyPipeline") is family
    assert families.denoisers_of("UNet2DConditionModel") is family, "what is added later is found first"


def test_a_backend(monkeypatch):
    op = kernels.op("column_sums")
    monkeypatch.setattr(op, "implementations", op.implementations)
    monkeypatch.setattr(op, "_usable", {})
    asked = []

    def toy(a, b, scale):
        asked.append(tuple(a.shape))
        return a.double().sum(1).float()

    op.add(toy, "toy", takes=lambda a, b, scale: b is None, condition="of one operand")
    a = torch.randn(2, 5, 3)
    torch.testing.assert_close(column_sums(a), a.sum(1))
    assert asked == [(2, 5, 3)]
    column_sums(a, a)
    assert len(asked) == 1, "it does not take two"
    assert any(i is not None and i.name == "toy" and not why for i, why in op.explain())
    with kernels.using("reference"):
        column_sums(a)
    assert len(asked) == 1, "the definition was asked for"


class ToyFormat:
    name = "toy"
    file_name = "toy.safetensors"
    summary = "nobody but this test"

    def claims(self, path, header):
        return "toy" in header.metadata

    def read(self, path, names):
        from intaglio.adapters.state import AdapterState, ComponentState

        tensors = load_file(path)
        layers = {n.removesuffix("|up") for n in tensors if n.endswith("|up")}
        low_rank = {n: LowRank(tensors[f"{n}|down"], tensors[f"{n}|up"], float(tensors[f"{n}|alpha"])) for n in layers}
        return AdapterState({"unet": ComponentState(low_rank)}, None, {})

    def write(self, path, state):
        tensors = {}
        for name, low_rank in state.components["unet"].low_rank.items():
            tensors |= {f"{name}|down": low_rank.down, f"{name}|up": low_rank.up}
            tensors[f"{name}|alpha"] = torch.tensor(low_rank.alpha)
        save_file({n: t.contiguous() for n, t in tensors.items()}, path, {"toy": json.dumps(True)})


def test_an_adapter_format(monkeypatch, tmp_path):
    monkeypatch.setattr(formats, "_registered", {})
    formats.register(ToyFormat())
    adapter = intaglio.attach(make_unet(), intaglio.Lora(rank=2, alpha=4.0), targets=["to_q"])
    path = adapter.save(tmp_path, format="toy")
    assert path.name == "toy.safetensors"
    state = formats.find_format(path).read(path, None)
    low_rank = state.components["unet"].low_rank
    assert sorted(low_rank) == sorted(adapter.layers)
    assert {p.alpha for p in low_rank.values()} == {4.0}


def test_a_metric():
    before = dict(metrics.METRICS)
    try:

        @metrics.metric("toy_length", title="images a prompt", better="higher", range=(0, 1e6))
        def toy_length(shown):
            return float(len(shown.images))

        found = {m.name: m for m in metrics.metrics()}
        assert found["toy_length"].better == "higher"
    finally:
        metrics.METRICS.clear()
        metrics.METRICS.update(before)


def test_the_page_names_every_way_in():
    groups = set(re.findall(r"intaglio\.(methods|families|kernels|adapter_formats|weight_sources|metrics)`", DOC))
    assert groups == {"methods", "families", "kernels", "adapter_formats", "weight_sources", "metrics"}
