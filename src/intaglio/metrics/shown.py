"""What a metric sees: the images that a model drew for a task's prompts, and what is true of each prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

    from intaglio.metrics.encoders.protocol import ImageEncoder, TextEncoder

Images = Sequence[Image.Image]
Check = Callable[[Images], float]
"""Share, in [0, 1], of images in which one thing that the prompt names is right, by their pixels."""


@dataclass(frozen=True)
class Prompted:
    """The images of one prompt."""

    text: str
    images: Images
    features: Tensor
    """(N, D) of `images`, by `encoder`."""
    heldout_images: Images
    """Real images of what the prompt asks for, on its background, that were not learned."""
    heldout: Tensor
    """Their features (H, D)."""
    learned: Tensor
    """Features (L, D) of the images that were learned."""
    encoder: ImageEncoder
    text_encoder: TextEncoder | None = None
    all_learned: bool = False
    """Whether the held-out images are the learned ones: the published protocol holds nothing out."""
    teaches_style: bool = False
    """Whether the learned images show other things than the prompt asks for, in one style."""
    gallery: Tensor | None = None
    """Features (G, D) of everyone among whom the subject is to be recognised."""
    right: int | None = None
    """The subject's row of `gallery`; it is the first held-out image."""
    checks: Mapping[str, Check] | None = None
    """Pixel checks by name: "background", "team_colour"."""
    style_texts: Sequence[str] = ()
    """The prompt with the name of each style in turn, where a style is taught."""
    right_style: int | None = None
    """Place of the right one in `style_texts`."""

    def showing(self, images: Images, features: Tensor | None = None) -> Prompted:
        """The same prompt with other images, for example real ones."""
        return replace(self, images=images, features=self.encoder.features(images) if features is None else features)


@dataclass(frozen=True)
class Shown:
    """All images of a task."""

    prompts: tuple[Prompted, ...]
    encoder: ImageEncoder
    unrelated: Images = ()
    """An image of each unrelated prompt by the adapted model,"""
    base_unrelated: Images = ()
    """and by its base, from equal noise."""
