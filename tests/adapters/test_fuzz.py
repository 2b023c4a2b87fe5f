"""Files from anywhere: a reader says in a line what is wrong, or reads; it never crashes, hangs or believes rubbish."""

from __future__ import annotations

import time

import pytest
import torch

import intaglio
from intaglio.adapters.describe import describe_adapter
from intaglio.adapters.formats import find_format
from intaglio.adapters.header import read_header
from intaglio.adapters.state import Names
from intaglio.errors import UserError
from mutations import mutate, write
from tiny_models import make_unet

FORMATS = ("intaglio", "diffusers", "peft", "kohya", "comfyui")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """format -> (file, other files of its folder); and the model that they are for."""
    model = make_unet()
    adapter = intaglio.attach(model, intaglio.QLora(rank=2, alpha=3.0), base="int8", targets=["to_q", "conv1"])
    found = {}
    for name in FORMATS:
        path = adapter.save(tmp_path_factory.mktemp(name), format=name)
        found[name] = (path.name, path.read_bytes(), {p.name: p.read_bytes() for p in path.parent.glob("*.json")})
    return found, Names.of(model)


def check_message(said):
    assert len(said) < 2000
    assert all(c.isprintable() or c == "\n" for c in said)


def check(seed, samples, folder):
    found, names = samples
    name = FORMATS[seed % len(FORMATS)]
    file, data, beside = found[name]
    in_config = bool(beside) and seed % 3 == 0
    path = write(folder / file, data if in_config else mutate(data, seed))
    for other, content in beside.items():
        write(folder / other, mutate(content, seed) if in_config else content)
    began = time.perf_counter()
    for known in (names, None):
        try:
            read_header(path)
            describe_adapter(path)
            state = find_format(path).read(path, known)
        except UserError as error:
            check_message(str(error))
            continue
        for part in state.components.values():
            for layer, pair in part.low_rank.items():
                assert layer.isprintable()
                assert pair.down.shape[0] == pair.up.shape[1]
                assert torch.isfinite(torch.tensor(pair.alpha))
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("seed", range(40))
def test_a_few_mutations(seed, samples, tmp_path):
    check(seed, samples, tmp_path)


@pytest.mark.slow
def test_two_thousand_mutations_of_each_format(samples, tmp_path):
    for seed in range(2000 * len(FORMATS)):
        check(seed, samples, tmp_path)
