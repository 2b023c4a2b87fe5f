"""A task with ground truth: photos to learn, photos held out, prompts over backgrounds; and a model's scores on it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from PIL import Image, ImageDraw

from intaglio.data.images import open_rgb
from intaglio.metrics.colour import colour_share
from intaglio.metrics.encoders import ImageEncoder
from intaglio.metrics.scores import mean_pairwise_cosine

WHITE_TOLERANCE = 24
"""Sum over channels by which a pixel may differ from white and still be background."""


@dataclass(frozen=True)
class SubjectTask:
    """One subject. `{colour}` stands in the prompt for the background."""

    train_folder: Path
    heldout_folder: Path
    prompt: str
    colours: dict[str, tuple[int, int, int]]
    """Backgrounds that images are drawn on, by name, sRGB."""

    @property
    def instance_prompt(self) -> str:
        """The photos lie on white."""
        return self.prompt.format(colour="white")

    def prompts(self) -> dict[str, str]:
        """Prompt of each background colour."""
        return {name: self.prompt.format(colour=name) for name in self.colours}


def sample_cat() -> SubjectTask:
    """The subject that ships: the cat faces of Noto Emoji (Apache-2.0), five expressions to learn, four held out."""
    assets = Path(str(files("intaglio") / "assets"))
    table = tomllib.loads((assets / "colours.toml").read_text(encoding="utf-8"))["backgrounds"]
    chosen = ("white", "blue", "green", "pink", "gray", "purple")
    return SubjectTask(
        assets / "cat" / "train",
        assets / "cat" / "heldout",
        "a photo of sks cat on a {colour} background",
        {name: tuple(table[name]) for name in chosen},
    )


def score_subject(task: SubjectTask, images: dict[str, list[Image.Image]], encoder: ImageEncoder) -> dict[str, float]:
    """Scores of generated images, by background colour.

    Returns:
        subject: mean cosine between each image and the held-out images laid on the same background.
        colour: share of images whose background has the prompted colour.
    """
    heldout = photos(task.heldout_folder)
    cosines, drawn, names = [], [], []
    for name, own in images.items():
        side = own[0].width
        truth = [on_background(photo, task.colours[name], side) for photo in heldout]
        cosines.append(mean_pairwise_cosine(encoder.features(own), encoder.features(truth)))
        drawn += own
        names += [name] * len(own)
    table = {name: list(rgb) for name, rgb in task.colours.items()}
    return {"subject": sum(cosines) / len(cosines), "colour": colour_share(drawn, names, table)}


def real_score(task: SubjectTask, encoder: ImageEncoder, side: int) -> float:
    """The ceiling: mean cosine of held-out and training images, both at `side` pixels on the same backgrounds."""
    cosines = []
    for rgb in task.colours.values():
        train = [on_background(photo, rgb, side) for photo in photos(task.train_folder)]
        heldout = [on_background(photo, rgb, side) for photo in photos(task.heldout_folder)]
        cosines.append(mean_pairwise_cosine(encoder.features(heldout), encoder.features(train)))
    return sum(cosines) / len(cosines)


def photos(folder: Path) -> list[Image.Image]:
    return [open_rgb(path) for path in sorted(folder.glob("*.png"))]


def on_background(photo: Image.Image, rgb: tuple[int, int, int], side: int) -> Image.Image:
    """An image on white, with the white that reaches its corners replaced by `rgb`, at `side` pixels."""
    laid = photo.copy()
    for corner in ((0, 0), (laid.width - 1, 0), (0, laid.height - 1), (laid.width - 1, laid.height - 1)):
        if sum(255 - level for level in laid.getpixel(corner)) <= WHITE_TOLERANCE:  # type: ignore[union-attr, arg-type]
            ImageDraw.floodfill(laid, corner, rgb, thresh=WHITE_TOLERANCE)
    return laid.resize((side, side), Image.Resampling.LANCZOS)
