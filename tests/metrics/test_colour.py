"""Background colours of drawn images, and CIELAB against published values."""

import tomllib
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image, ImageDraw

from intaglio.metrics.colour import background_colour, colour_share, lab

TABLE = tomllib.loads((files("intaglio") / "assets" / "colours.toml").read_text())["backgrounds"]


@pytest.mark.parametrize(
    ("rgb", "expected"),  # sRGB under D65, as Lindbloom's calculator gives them
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.2408, 80.0925, 67.2032)),
        ((0, 255, 0), (87.7347, -86.1827, 83.1793)),
        ((0, 0, 255), (32.2970, 79.1875, -107.8602)),
        ((5, 5, 5), (1.3708, 0, 0)),  # on the straight piece near black: 903.3 * (5 / 255 / 12.92)
    ],
)
def test_lab(rgb, expected):
    assert lab(np.array(rgb, dtype=float)) == pytest.approx(expected, abs=5e-3)


def drawing(colour, size=64, subject=(250, 200, 40)):
    image = Image.new("RGB", (size, size), tuple(colour))
    ImageDraw.Draw(image).ellipse((size // 5, size // 5, size - 1, size - 1), fill=subject)  # touches the border
    return image


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("size", [16, 64, 257])
def test_a_subject_on_each_background(name, size):
    assert background_colour(drawing(TABLE[name], size), TABLE) == name


def test_a_shade_and_noise_still_have_the_name():
    levels = np.asarray(drawing((60, 90, 200)), dtype=float)
    noisy = levels + np.random.default_rng(0).normal(0, 20, levels.shape)
    assert background_colour(Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)), TABLE) == "blue"


def test_share():
    images = [drawing(TABLE[name]) for name in ("red", "blue", "green", "white")]
    assert colour_share(images, ["red", "blue", "pink", "black"], TABLE) == 0.5


def test_mistakes():
    with pytest.raises(ValueError, match="colours \\['mauve'\\] are not in the table: white, black"):
        colour_share([drawing((0, 0, 0))], ["mauve"], TABLE)
    with pytest.raises(ValueError, match="at least one: 0 and 0"):
        colour_share([], [], TABLE)
    with pytest.raises(ValueError, match="the table of colours is empty"):
        background_colour(drawing((0, 0, 0)), {})
