"""Images of a task -> what metrics see: the features and truth of every prompt, by one encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from PIL import Image

from intaglio.metrics.colour import background_colour, nearest_palette
from intaglio.metrics.encoders.protocol import TextEncoder
from intaglio.metrics.shown import Check, Prompted
from intaglio.study.tasks.manifest import Manifest, Prompt, Task
from intaglio.study.truth import Truth

TOKEN = "sks"
"""Stands in a style task's prompts for the style that is taught."""
Drawn = Sequence[tuple[Prompt, Sequence[Image.Image]]]
"""Each prompt with its images, at least one."""


def show(task: Task, drawn: Drawn, truth: Truth, text_encoder: TextEncoder | None = None) -> tuple[Prompted, ...]:
    """What metrics see of `drawn`.

    Args:
        text_encoder: reads the prompts; None leaves them to the pixel checks.
    """
    return tuple(_prompted(task, prompt, images, truth, text_encoder) for prompt, images in drawn)


def _prompted(
    task: Task, prompt: Prompt, images: Sequence[Image.Image], truth: Truth, text_encoder: TextEncoder | None
) -> Prompted:
    side, files, learned = images[0].width, task.references[prompt.reference], task.learned_for(prompt)
    return Prompted(
        text=prompt.text,
        images=images,
        features=truth.encoder.features(images),
        heldout_images=truth.images(files, prompt, side),
        heldout=truth.features(files, prompt, side),
        learned=truth.features(learned, prompt, side),
        encoder=truth.encoder,
        text_encoder=text_encoder,
        all_learned=learned == files,
        teaches_style=task.kind == "style",
        checks=_checks(task, prompt, side, truth),
        **_gallery(task, prompt, side, truth),
        **_styles(task, prompt, truth.manifest),
    )


def _gallery(task: Task, prompt: Prompt, side: int, truth: Truth) -> Mapping[str, Any]:
    if task.gallery is None:
        return {}
    gallery = truth.manifest.galleries[task.gallery]
    everyone = truth.features(list(gallery.values()), prompt, side)
    return {"gallery": everyone, "right": list(gallery).index(prompt.reference)}


def _styles(task: Task, prompt: Prompt, manifest: Manifest) -> Mapping[str, Any]:
    if task.style is None:
        return {}
    styles = sorted({other.style for other in manifest.tasks if other.style is not None})
    texts = [prompt.text.replace(TOKEN, style) for style in styles]
    return {"style_texts": texts, "right_style": styles.index(task.style)}


def _checks(task: Task, prompt: Prompt, side: int, truth: Truth) -> dict[str, Check]:
    """What can be read off the pixels: the background, the colour of the clothes where it is not the learned one."""
    checks: dict[str, Check] = {}
    if prompt.background is not None:
        colours, textures = truth.colours(), truth.textures()

        def background(images: Sequence[Image.Image]) -> float:
            if prompt.background in colours:
                found = [background_colour(image, colours) for image in images]
            else:
                found = nearest_palette(images, textures, border=True)
            return fmean(name == prompt.background for name in found)

        checks["background"] = background
    if prompt.team_colour is not None and prompt.team_colour != task.team_colour:

        def team_colour(images: Sequence[Image.Image]) -> float:
            files = task.references[prompt.reference]
            candidates = {
                team: truth.images(files, prompt.model_copy(update={"team_colour": team}), side)
                for team in truth.manifest.team_colours
            }
            found = nearest_palette(images, candidates, border=False)
            return fmean(name == prompt.team_colour for name in found)

        checks["team_colour"] = team_colour
    return checks
