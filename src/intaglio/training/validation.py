"""Pictures while training: the validation prompts, drawn by the denoiser as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from intaglio.data.noise import step_generator
from intaglio.families.base import Conditioning, Family
from intaglio.files import write_atomic
from intaglio.metrics.grid import contact_sheet


def draw(
    pipeline: Any, family: Family, embeddings: list[Conditioning], count: int, seed: int, side: int
) -> list[list[Image.Image]]:
    """`count` images of each embedded prompt; the last entry of `embeddings` is the empty prompt.

    Args:
        side: in pixels, of families whose pipelines do not know their own.
    """
    denoiser: nn.Module = getattr(pipeline, family.component)
    was_training = denoiser.training
    denoiser.eval()
    device, dtype = pipeline.vae.device, pipeline.vae.dtype
    *prompts, empty = embeddings
    rows = []
    for prompt in prompts:
        told, nothing = (_repeat(each, count, device, dtype) for each in (prompt, empty))
        arguments = family.sample_arguments(told, nothing, side)
        generators = [step_generator(seed, 0, i, "validation") for i in range(count)]
        with torch.no_grad():
            rows.append(pipeline(generator=generators, **{"num_inference_steps": 25, **arguments}).images)
    denoiser.train(was_training)
    return rows


def _repeat(conditioning: Conditioning, count: int, device: torch.device, dtype: torch.dtype) -> Conditioning:
    return {
        key: value.to(device, dtype if value.is_floating_point() else value.dtype).repeat(
            count, *([1] * (value.ndim - 1))
        )
        for key, value in conditioning.items()
    }


def validate(
    pipeline: Any,
    family: Family,
    embeddings: list[Conditioning],
    prompts: tuple[str, ...],
    count: int,
    seed: int,
    side: int,
    path: Path,
) -> None:
    """Write a contact sheet of the validation prompts to `path`."""
    sheet = contact_sheet(draw(pipeline, family, embeddings, count, seed, side), row_labels=list(prompts))
    write_atomic(path, lambda temporary: sheet.save(temporary, format="PNG"))
