"""Pictures while training: the validation prompts, drawn by the denoiser as it is."""

from __future__ import annotations

from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from intaglio.data.noise import step_generator
from intaglio.families.base import Conditioning, Family
from intaglio.files import write_atomic
from intaglio.sampling.grid import contact_sheet
from intaglio.sampling.session import Session


def draw(
    pipeline: Any, family: Family, embeddings: list[Conditioning], count: int, seed: int, side: int
) -> list[list[Image.Image]]:
    """`count` images of each embedded prompt; the last entry of `embeddings` is the empty prompt.

    Args:
        side: in pixels, of families whose pipelines do not know their own.
    """
    device, dtype = pipeline.vae.device, pipeline.vae.dtype
    *prompts, empty = (_moved(each, device, dtype) for each in embeddings)
    told = [family.sample_arguments(prompt, empty, side) for prompt in prompts]
    told = [{"num_inference_steps": 25, **each} for each in told]
    images = Session(pipeline).draw(told, count=count, noise=partial(_noise, seed))
    return [list(islice(images, count)) for _ in prompts]


def _noise(seed: int, place: int, number: int) -> torch.Generator:
    """The same for every prompt and at every step."""
    return step_generator(seed, 0, number, "validation")


def _moved(conditioning: Conditioning, device: torch.device, dtype: torch.dtype) -> Conditioning:
    return {
        key: value.to(device, dtype if value.is_floating_point() else value.dtype)
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
