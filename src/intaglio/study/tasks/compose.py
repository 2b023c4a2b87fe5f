"""The rule by which a true image is composed: a cut-out in a team's colour, on a colour or a texture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from intaglio.data.images import open_rgb

__all__ = ["compose", "open_cutout", "recolour"]

RGB = tuple[int, int, int]


def compose(cutout: Image.Image, background: RGB | Image.Image, side: int) -> Image.Image:
    """An RGBA cut-out on a background, RGB, `side` x `side` pixels.

    A texture is cut to the cut-out's size in its middle, so both keep one scale; the whole is then resized (Lanczos).
    A cut-out that is wider than high, or the reverse, is centred.
    """
    size = max(cutout.size)
    if isinstance(background, Image.Image):
        if min(background.size) < size:
            background = background.resize((size, size), Image.Resampling.LANCZOS)
        left, top = (background.width - size) // 2, (background.height - size) // 2
        whole = background.convert("RGB").crop((left, top, left + size, top + size))
    else:
        whole = Image.new("RGB", (size, size), background)
    place = ((size - cutout.width) // 2, (size - cutout.height) // 2)
    whole.paste(cutout.convert("RGB"), place, cutout.getchannel("A"))
    return whole.resize((side, side), Image.Resampling.LANCZOS)


def recolour(cutout: Image.Image, palette: Sequence[RGB], colour: tuple[RGB, RGB, RGB]) -> Image.Image:
    """Replace the palette's levels by shades of a team colour, as the game does (Wesnoth, `recolor_range`).

    Args:
        cutout: RGBA.
        palette: exact levels; the mean level of the first is the one that becomes the average shade.
        colour: average, highlight and shadow. A level below the reference lies between shadow and average, one above
            between average and highlight, in proportion to its mean.
    """
    rgba = np.array(cutout.convert("RGBA"))
    codes = rgba[..., 0].astype(np.int64) << 16 | rgba[..., 1].astype(np.int64) << 8 | rgba[..., 2]
    average, highlight, shadow = (np.array(shade, dtype=np.float64) for shade in colour)
    reference = sum(palette[0]) // 3
    for level in palette:
        mean = sum(level) // 3
        if mean <= reference:
            share = mean / reference
            shade = share * average + (1 - share) * shadow
        else:
            share = (255 - mean) / (255 - reference)
            shade = share * average + (1 - share) * highlight
        rgba[codes == (level[0] << 16 | level[1] << 8 | level[2]), :3] = np.clip(shade, 0, 255).astype(np.uint8)
    return Image.fromarray(rgba)


def open_cutout(path: object) -> Image.Image:
    """An RGBA image; an opaque photo comes out opaque, EXIF rotation applied."""
    with Image.open(path) as image:  # type: ignore[arg-type]
        if image.mode in ("RGBA", "LA", "PA", "P"):
            return image.convert("RGBA")
    return open_rgb(path).convert("RGBA")  # type: ignore[arg-type]
