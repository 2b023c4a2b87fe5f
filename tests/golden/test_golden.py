"""No number moves without a word: the first 20 losses of every method are those that are stored."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("golden_losses", HERE / "losses.py")
assert spec is not None
assert spec.loader is not None
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)

ELSEWHERE = 0.02
"""Relative difference allowed where processor, torch or kernels are others: rounding flips some codes."""
QUICK = {("embedded", "int8_lora"), ("embedded", "tuneqdm")}


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("golden")


def _cases():
    for model in golden.MODELS:
        for method, compute in golden.CASES:
            slow = model == "embedded" and (model, method) not in QUICK
            yield pytest.param(model, method, compute, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(("model", "method", "compute"), list(_cases()))
def test_losses_are_the_stored_ones(model, method, compute, work):
    made_on, rows = golden.read(HERE / f"{model}.txt")
    losses, stored = golden.run(model, method, compute, work), rows[f"{method} {compute}"]
    assert len(stored) == golden.STEPS
    if golden.machine() == made_on:
        assert losses == stored
    else:
        assert losses == pytest.approx(stored, rel=ELSEWHERE)


def test_the_explained_value(work):
    """README.md's equation for the first loss of `lora` on the tiny SD, written out over plain diffusers."""
    from PIL import Image

    from intaglio.data.noise import step_generator
    from intaglio.data.sampling import batch_indices, batch_positions
    from intaglio.data.transforms import PhotoTransform
    from tiny_pipelines import make_pipeline

    pipe = make_pipeline("sd")
    folder = golden.photos(work / "photos", 64)
    transform = PhotoTransform(resolution=16, center_crop=True, random_flip=False)
    where = {"batch_size": 2, "rank": 0, "world_size": 1}
    errors = []
    text = pipe.encode_prompt("sks square", "cpu", 1, False)[0]
    indices = batch_indices(0, seed=0, num_items=3, **where)
    for position, index in zip(batch_positions(0, **where), indices, strict=True):
        pixels = transform(Image.open(folder / f"{index}.png")).pixels
        generator = step_generator(0, 0, position, "photos")
        with torch.no_grad():
            posterior = pipe.vae.encode(pixels[None]).latent_dist
            latent = posterior.mean + posterior.std * torch.randn(posterior.mean.shape[1:], generator=generator)
            latent = latent * pipe.vae.config.scaling_factor
            noise = torch.randn(latent.shape[1:], generator=generator)[None]
            t = int(torch.randint(1000, (), generator=generator))
            alpha_bar = pipe.scheduler.alphas_cumprod[t]
            noisy = alpha_bar.sqrt() * latent + (1 - alpha_bar).sqrt() * noise
            predicted = pipe.unet(noisy, t, encoder_hidden_states=text).sample
        errors.append(((predicted - noise) ** 2).mean().item())
    _, rows = golden.read(HERE / "sd.txt")
    assert sum(errors) / 2 == pytest.approx(rows["lora float"][0], rel=1e-4)
