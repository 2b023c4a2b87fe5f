"""Pictures while training: the validation prompts, drawn by the denoiser as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from intaglio.data.noise import step_generator
from intaglio.files import write_atomic
from intaglio.metrics.grid import contact_sheet


def draw(pipeline: Any, embeddings: list[dict[str, torch.Tensor]], count: int, seed: int) -> list[list[Image.Image]]:
    """`count` pictures of each embedded prompt; the last entry of `embeddings` is the empty prompt."""
    denoiser: nn.Module = pipeline.unet
    was_training = denoiser.training
    denoiser.eval()
    device, dtype = pipeline.vae.device, pipeline.vae.dtype
    *prompts, empty = embeddings
    rows = []
    for prompt in prompts:
        arguments = {}
        for key in prompt:
            shape = (count, *([1] * (prompt[key].ndim - 1)))
            arguments[key] = prompt[key].to(device, dtype).repeat(shape)
            arguments[f"negative_{key}"] = empty[key].to(device, dtype).repeat(shape)
        generators = [step_generator(seed, 0, i, "validation") for i in range(count)]
        with torch.no_grad():
            rows.append(pipeline(**arguments, generator=generators, num_inference_steps=25).images)
    denoiser.train(was_training)
    return rows


def validate(pipeline: Any, embeddings: Any, prompts: tuple[str, ...], count: int, seed: int, path: Path) -> None:
    """Write a contact sheet of the validation prompts to `path`."""
    sheet = contact_sheet(draw(pipeline, embeddings, count, seed), row_labels=list(prompts))
    write_atomic(path, lambda temporary: sheet.save(temporary, format="PNG"))
