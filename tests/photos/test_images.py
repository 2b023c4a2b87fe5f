"""Every kind of pixel that cameras and editors write comes out as upright 8-bit RGB."""

import io

import numpy as np
import pytest
from PIL import Image

from intaglio.data.images import find_fault, open_rgb
from intaglio.errors import UserError


def saved(image: Image.Image, format: str = "PNG", **options) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, format, **options)
    file.seek(0)
    return file


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    assert image.mode == "RGB"
    return image.getpixel((x, y))


def test_exif_rotation_is_applied():
    image = Image.new("RGB", (20, 10), "white")
    image.paste((255, 0, 0), (0, 0, 20, 5))  # red above
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn clockwise by 90 degrees
    upright = open_rgb(saved(image, "JPEG", exif=exif, quality=95))
    assert upright.size == (10, 20)
    red, green, _ = pixel(upright, 8, 10)  # what was above is now on the right
    assert red > 230
    assert green < 40
    assert min(pixel(upright, 1, 10)) > 200


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode):
    clear = (0, 0, 0, 0) if mode == "RGBA" else (0, 0)
    assert pixel(open_rgb(saved(Image.new(mode, (16, 16), clear)))) == (255, 255, 255)
    half = (0, 0, 0, 51) if mode == "RGBA" else (0, 51)  # a fifth of black on white
    assert pixel(open_rgb(saved(Image.new(mode, (16, 16), half)))) == (204, 204, 204)


def test_transparent_palette_is_laid_on_white():
    image = Image.new("P", (16, 16), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    out = open_rgb(saved(image, transparency=0))
    assert (pixel(out), pixel(out, 1)) == ((255, 255, 255), (200, 100, 50))


def test_16_bit_grey_keeps_its_range():
    levels = np.array([[0, 257, 32896, 65535]] * 4, dtype=np.uint16)
    out = open_rgb(saved(Image.fromarray(levels)))
    assert [pixel(out, x)[0] for x in range(4)] == [0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_and_palette(mode):
    assert pixel(open_rgb(saved(Image.new("RGB", (16, 16), "white").convert(mode)))) == (255, 255, 255)


def test_cmyk_jpeg():
    red, green, blue = pixel(open_rgb(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)))
    assert red > 240
    assert max(green, blue) < 15


def test_webp_and_animation_give_the_first_frame():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("lime", "blue")]
    out = open_rgb(saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True))
    assert pixel(out) == (0, 255, 0)


def test_undecodable_data_names_the_file(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"a\.png: its content is no JPEG, PNG or WebP"):
        open_rgb(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_truncation_is_found(tmp_path, photo, suffix):
    path = photo(tmp_path / f"a{suffix}", (64, 64))
    assert find_fault(path) is None
    path.write_bytes(path.read_bytes()[:-200])
    fault = find_fault(path)
    assert fault is not None
    assert "cannot be decoded" in fault or "no JPEG, PNG or WebP" in fault


def test_smallest_side(tmp_path, photo):
    assert find_fault(photo(tmp_path / "a.png", (16, 16))) is None
    assert find_fault(photo(tmp_path / "b.png", (15, 40))) == "15 x 40 pixels; the shorter side must have at least 16"
