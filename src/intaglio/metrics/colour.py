"""Is the background the prompted colour? Read from the pixels, without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ColourTable = Mapping[str, Sequence[int]]  # name -> [red, green, blue], sRGB, 0..255

# sRGB (IEC 61966-2-1) to CIE XYZ under D65, and that white point
_XYZ_OF_RGB = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE_XYZ = _XYZ_OF_RGB.sum(axis=1)
_BORDER = 1 / 16  # of the shorter side


def background_colour(image: Image.Image, table: ColourTable) -> str:
    """The name in `table` that is nearest, in CIELAB, to the median of the border's pixels.

    The border is 1/16 of the shorter side wide. A median by channel stays on the background while the subject covers
    less than half of the border.
    """
    if not table:
        raise ValueError("the table of colours is empty")
    names = list(table)
    known_NC = lab(np.array([table[name] for name in names], dtype=np.float64))
    distance_N = np.linalg.norm(known_NC - border_lab(image), axis=1)
    return names[int(distance_N.argmin())]


def colour_share(images: Sequence[Image.Image], prompted: Sequence[str], table: ColourTable) -> float:
    """Share, in [0, 1], of images whose background has the colour that its prompt names."""
    if not images or len(images) != len(prompted):
        raise ValueError(f"need as many prompted colours as images, at least one: {len(images)} and {len(prompted)}")
    if unknown := sorted(set(prompted) - set(table)):
        raise ValueError(f"colours {unknown} are not in the table: {', '.join(table)}")
    hits = [background_colour(image, table) == name for image, name in zip(images, prompted, strict=True)]
    return sum(hits) / len(hits)


def border_lab(image: Image.Image) -> NDArray[np.float64]:
    """Median L*, a*, b* (3,) of the pixels within 1/16 of the shorter side from the edge."""
    rgb_HWC = np.asarray(image.convert("RGB"), dtype=np.float64)
    width = max(1, round(min(image.size) * _BORDER))
    inside = np.zeros(rgb_HWC.shape[:2], dtype=bool)
    inside[width:-width, width:-width] = True
    return np.median(lab(rgb_HWC[~inside]), axis=0)


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """sRGB levels (..., 3) in [0, 255] -> CIELAB (..., 3) under D65: L* in [0, 100]."""
    level = rgb / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    ratio = linear @ _XYZ_OF_RGB.T / _WHITE_XYZ
    root = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def nearest_palette(
    images: Sequence[Image.Image], candidates: Mapping[str, Sequence[Image.Image]], *, border: bool
) -> list[str]:
    """For each image, the name of the candidates whose colours it shares the most: a texture, the colour of clothes.

    Colours are counted in 10 x 16 x 16 cells of CIELAB; the candidates of a name are averaged; the smallest sum of
    absolute differences wins. `border` looks only at the pixels within 1/8 of the shorter side from the edge.
    """
    if not candidates:
        raise ValueError("no candidates to choose from")
    names = list(candidates)
    known_NC = np.stack([np.mean([_colour_counts(c, border) for c in candidates[n]], axis=0).ravel() for n in names])
    own_BC = [_colour_counts(image, border).ravel() for image in images]
    return [names[int(np.abs(known_NC - own_C).sum(axis=1).argmin())] for own_C in own_BC]


def _colour_counts(image: Image.Image, border: bool) -> NDArray[np.float64]:
    """Share of pixels in each cell, smoothed over neighbouring cells so that a shade's cell border decides nothing."""
    pixels = lab(np.asarray(image.convert("RGB"), dtype=np.float64))
    if border:
        width = max(1, min(image.size) // 8)
        outside = np.ones(pixels.shape[:2], dtype=bool)
        outside[width:-width, width:-width] = False
        pixels = pixels[outside]
    cell = ((pixels.reshape(-1, 3) - (0, -128, -128)) / (10.0001, 16, 16)).astype(int)
    flat = np.ravel_multi_index(tuple(cell.clip(0, (9, 15, 15)).T), (10, 16, 16))
    counts = np.bincount(flat, minlength=10 * 16 * 16).reshape(10, 16, 16).astype(np.float64)
    padded = np.pad(counts, 1)
    for axis in range(3):
        padded = (np.roll(padded, 1, axis) + 2 * padded + np.roll(padded, -1, axis)) / 4
    return padded / padded.sum()
