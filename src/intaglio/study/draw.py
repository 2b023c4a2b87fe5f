"""Images for a score: their noise depends on the prompt's place and the image's number, never on the method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from intaglio.config import StrictModel

if TYPE_CHECKING:
    from PIL import Image

BATCH = 16


class Drawing(StrictModel):
    """How images are drawn; equal for all that is compared."""

    num_prompts: int | None = Field(
        default=None, ge=1, description="prompts of a task, evenly spread over its set [all]"
    )
    images_per_prompt: int = Field(default=4, ge=1, description="images a prompt")
    num_unrelated: int = Field(default=8, ge=0, description="unrelated prompts, one image each, for drift")
    num_inference_steps: int = Field(default=25, ge=1)
    guidance_scale: float = 5.0
    seed: int = Field(default=0, ge=0, description="of the noise")


def draw(pipeline: Any, texts: Sequence[str], count: int, drawing: Drawing, stream: str) -> list[list[Image.Image]]:
    """`count` images of each text. `stream` keeps the noise of unlike uses apart."""
    from intaglio.data.noise import step_generator  # imports torch, which `--help` does without

    jobs = [(place, number) for place in range(len(texts)) for number in range(count)]
    images: list[Image.Image] = []
    for start in range(0, len(jobs), BATCH):
        part = jobs[start : start + BATCH]
        generators = [step_generator(drawing.seed, place, number, stream) for place, number in part]
        images += pipeline(
            [texts[place] for place, _ in part],
            generator=generators,
            num_inference_steps=drawing.num_inference_steps,
            guidance_scale=drawing.guidance_scale,
        ).images
    return [images[place * count : (place + 1) * count] for place in range(len(texts))]
