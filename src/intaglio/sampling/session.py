"""One session draws for `generate`, `demo`, validation and the study: a pipeline, the adapter that it wears, and noise
that depends on nothing but its seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from intaglio.adapters.attach import load_adapter
from intaglio.adapters.handle import Adapter
from intaglio.adapters.header import read_header
from intaglio.checkpoints.load import denoiser_of
from intaglio.errors import UserError
from intaglio.families.registry import family_of_pipeline

if TYPE_CHECKING:
    from PIL import Image

Noise = Callable[[int, int], torch.Generator]
"""(place of the prompt, number of the image) -> the generator of the image's noise, on the CPU."""
Prompt = str | Mapping[str, Any]
"""A text; or what the pipeline is called with for one image, its tensors (1, ...)."""


def seed_plus_number(seed: int) -> Noise:
    """Image `number` of every prompt begins with the noise of `seed + number`."""
    return lambda place, number: torch.Generator().manual_seed(seed + number)


class Session:
    """A pipeline that draws, with one adapter at a time or none."""

    def __init__(self, pipeline: Any):
        self.pipeline = pipeline
        self.adapter: Adapter | None = None
        pipeline.set_progress_bar_config(disable=True)

    @property
    def denoiser(self) -> torch.nn.Module:
        return denoiser_of(self.pipeline)[1]

    def put(self, folder: Path | None) -> None:
        """Wear the adapter saved in `folder`, None for the base alone.

        Where the one before has the same shape its values are replaced, else the layers are.

        Raises:
            UserError: no adapter there, or it was trained on another base.
        """
        if self.adapter is not None and folder is not None and self._has_shape_of(folder):
            self.adapter.load(folder)
            return
        if self.adapter is not None:
            self.adapter.detach()
            self.adapter = None
        if folder is not None:
            self.adapter = load_adapter(self.denoiser, folder)

    def draw(
        self,
        prompts: Sequence[Prompt],
        seed: int = 0,
        *,
        count: int = 1,
        noise: Noise | None = None,
        images_per_call: int | None = None,
        negative_prompt: str | None = None,
        guidance_scale: float | None = None,
        side: int | None = None,
        **options: Any,
    ) -> Iterator[Image.Image]:
        """`count` images of each prompt, prompt after prompt, each as soon as its call of the pipeline is over.

        Args:
            seed: image `i` of each prompt begins with the noise of `seed + i`.
            noise: in place of `seed`.
            images_per_call: of the pipeline; None is `count`. On a CPU the last bits of an image may depend on it.
            negative_prompt, guidance_scale: of texts, by the names that the pipeline's family has for them. None is the
                family's default.
            side: of the images of texts, in pixels; None is the pipeline's default.
            options: of the pipeline, for example `num_inference_steps`.
        """
        noise = noise or seed_plus_number(seed)
        places = [(place, number) for place in range(len(prompts)) for number in range(count)]
        size = images_per_call or count
        of_family = self._of_family(negative_prompt, guidance_scale, side)
        for start in range(0, len(places), size):
            part = places[start : start + size]
            arguments = _arguments([prompts[place] for place, _ in part])
            if "prompt" in arguments:
                arguments |= {k: [v] * len(part) if k == "negative_prompt" else v for k, v in of_family.items()}
            generators = [noise(place, number) for place, number in part]
            with _evaluating(self.denoiser):
                images = self.pipeline(**arguments, generator=generators, **options).images
            yield from images

    def _of_family(self, negative_prompt: str | None, guidance_scale: float | None, side: int | None) -> dict[str, Any]:
        """Guidance and size by the names that the pipeline's family has for them."""
        try:
            family = family_of_pipeline(type(self.pipeline).__name__)
        except UserError:  # none of ours: by the names that most pipelines have
            given = {
                "negative_prompt": negative_prompt,
                "guidance_scale": guidance_scale,
                "height": side,
                "width": side,
            }
            return {name: value for name, value in given.items() if value is not None}
        if side is None:
            return family.call_arguments(negative_prompt, guidance_scale)
        family.check_side(self.pipeline, side)
        return family.call_arguments(negative_prompt, guidance_scale) | family.size_arguments(side)

    def _has_shape_of(self, folder: Path) -> bool:
        assert self.adapter is not None
        header, own = read_header(folder), self.adapter.header()
        if header is None:
            return False
        return (header.method, header.options, header.layers) == (own.method, own.options, own.layers)


def _arguments(prompts: Sequence[Prompt]) -> dict[str, Any]:
    """What one call of the pipeline takes for these images: texts alone, or tensors alone."""
    if all(isinstance(prompt, str) for prompt in prompts):
        return {"prompt": list(prompts)}
    told = [prompt for prompt in prompts if isinstance(prompt, Mapping)]
    if len(told) < len(prompts):
        raise TypeError("texts and tensors in one call")
    return {
        name: torch.cat([each[name] for each in told]) if isinstance(value, torch.Tensor) else value
        for name, value in told[0].items()
    }


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)
