"""Contact sheets: size, place and content of what is on them."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from intaglio.metrics.grid import _wrap, contact_sheet, fit


def plain(colour, size=(64, 64)):
    return Image.new("RGB", size, colour)


def count(sheet, colour):
    return int((np.asarray(sheet) == np.array(colour)).all(axis=-1).sum())


def test_every_picture_is_there_in_full():
    red, blue = (255, 0, 0), (0, 0, 255)
    sheet = contact_sheet([[plain(red), plain(blue)], [plain(blue)]], cell=128)
    assert count(sheet, red) == 128 * 128
    assert count(sheet, blue) == 2 * 128 * 128
    assert sheet.size == (2 * 128 + 6 + 2 * 16, 2 * 128 + 6 + 2 * 16)  # gap 128 // 20, margin 128 // 8


def test_the_margin_stays_white_whatever_the_labels():
    sheet = contact_sheet(
        [[plain("black")] * 2] * 2,
        row_labels=["a label that needs several lines " * 2, "supercalifragilisticexpialidocious" * 2],
        column_labels=["before", "after, with a long explanation"],
        title="A title that is much longer than the two images below it are wide, so that it wraps " * 2,
        cell=96,
    )
    levels = np.asarray(sheet)
    edge = np.concatenate([levels[:10].reshape(-1, 3), levels[-10:].reshape(-1, 3), levels[:, -10:].reshape(-1, 3)])
    assert (edge == 255).all()
    assert (levels[:, :8] == 255).all()
    assert count(sheet, (0, 0, 0)) == 4 * 64 * 64  # no label touches an image


def test_small_pictures_grow_by_whole_factors():
    assert fit(plain("red", (64, 48)), 200).size == (192, 144)
    assert fit(plain("red", (100, 100)), 150).size == (100, 100)
    assert fit(plain("red", (512, 256)), 128).size == (128, 64)
    assert fit(plain("red", (5000, 2)), 100).size == (100, 1)


def test_wrapped_lines_fit_and_lose_nothing():
    font = ImageFont.load_default(16)
    text = "one two three incomprehensibilities four"
    lines = _wrap(text, font, 60)
    assert all(font.getlength(line) <= 60 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_mistakes():
    with pytest.raises(ValueError, match="no images"):
        contact_sheet([[], []])
    with pytest.raises(ValueError, match="1 row labels for 2 rows"):
        contact_sheet([[plain("red")], []], row_labels=["a"])
    with pytest.raises(ValueError, match="2 column labels for 1 columns"):
        contact_sheet([[plain("red")]], column_labels=["a", "b"])
