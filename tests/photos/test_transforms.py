"""Cuts of pictures: range, place, flip, and what SDXL is told about them."""

import numpy as np
import pytest
import torch
from PIL import Image

from intaglio.data.transforms import PhotoTransform, to_image, to_tensor


def ramp(width: int, height: int) -> Image.Image:
    """Red is the column, green the row."""
    levels = np.zeros((height, width, 3), dtype=np.uint8)
    levels[..., 0], levels[..., 1] = np.arange(width), np.arange(height)[:, None]
    return Image.fromarray(levels)


def test_tensor_and_back():
    image = ramp(16, 24)
    pixels = to_tensor(image)
    assert pixels.shape == (3, 24, 16)
    assert pixels.dtype == torch.float32
    assert pixels[2].unique().tolist() == [-1]  # blue is 0
    assert to_tensor(Image.new("RGB", (1, 1), "white")).max() == 1
    assert np.array_equal(np.asarray(to_image(pixels)), np.asarray(image))


def test_center_crop_of_a_picture_that_needs_no_resize():
    cut = PhotoTransform(resolution=16, center_crop=True)(ramp(30, 16))
    assert (cut.original_size, cut.crop_top_left, cut.flipped) == ((16, 30), (0, 7), False)
    assert torch.equal(cut.pixels, to_tensor(ramp(30, 16).crop((7, 0, 23, 16))))


def test_the_crop_offset_speaks_of_the_flipped_picture():
    transform = PhotoTransform(resolution=16, random_flip=True)
    flipped = 0
    for seed in range(40):
        cut = transform(ramp(40, 16), torch.Generator().manual_seed(seed))
        left = cut.crop_top_left[1]
        column = 39 - left if cut.flipped else left
        assert round(float((cut.pixels[0, 0, 0] + 1) * 127.5)) == column
        flipped += cut.flipped
    assert 10 < flipped < 30


def test_random_crops_reach_both_ends_and_follow_the_generator():
    transform = PhotoTransform(resolution=16)
    cuts = [transform(ramp(19, 16), torch.Generator().manual_seed(seed)) for seed in range(40)]
    assert {cut.crop_top_left for cut in cuts} == {(0, 0), (0, 1), (0, 2), (0, 3)}
    again = transform(ramp(19, 16), torch.Generator().manual_seed(7))
    assert torch.equal(again.pixels, cuts[7].pixels)


@pytest.mark.parametrize("size", [(17, 301), (301, 17), (1000, 999), (8, 8), (16, 16)])
def test_any_shape_becomes_a_square(size):
    assert PhotoTransform(resolution=16)(ramp(1, 1).resize(size)).pixels.shape == (3, 16, 16)


def test_a_fine_pattern_is_averaged_when_shrunk():
    levels = np.indices((128, 128)).sum(0) % 2 * 255
    image = Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    pixels = PhotoTransform(resolution=16)(image).pixels
    assert pixels.abs().max() < 0.05  # a checkerboard is grey, not aliased


def test_what_can_be_cached():
    assert not PhotoTransform(resolution=16).varies(40, 40)  # a square has no room for a random crop
    assert PhotoTransform(resolution=16).varies(40, 60)
    assert not PhotoTransform(resolution=16, center_crop=True).varies(40, 60)
    assert PhotoTransform(resolution=16, center_crop=True, random_flip=True).varies(40, 40)


def test_resolution_must_fit_the_latents():
    with pytest.raises(ValueError, match="positive multiple of 8 pixels, not 20"):
        PhotoTransform(resolution=20)
