"""Adapter files of version 0.1.0, as that version wrote them, give the outputs that they gave there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import intaglio
from tiny_models import make_unet

FOLDER = Path(__file__).parents[1] / "data" / "adapters-0.1"
OUTPUTS = json.loads((FOLDER / "outputs.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", OUTPUTS)
def test_loads_and_computes_as_then(name, batch):
    unet = make_unet()
    intaglio.load_adapter(unet, FOLDER / name)
    sample, timesteps, text = batch
    with torch.no_grad():
        out = unet(sample, timesteps, encoder_hidden_states=text).sample
    torch.testing.assert_close(out.flatten()[::97], torch.tensor(OUTPUTS[name]), rtol=0, atol=2e-2)
