"""Class pictures: only what is missing is made, and the same whatever the batch."""

from types import SimpleNamespace

import pytest
import torch

from intaglio.data.photos import read_folder
from intaglio.data.prior import count_class_images, generate_prior_images, missing_prior_images
from intaglio.data.transforms import to_image


def pipeline(prompt, generator):
    assert prompt == ["a cat"] * len(generator)
    return SimpleNamespace(images=[to_image(torch.randn(3, 16, 16, generator=g)) for g in generator])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_missing_pictures_are_made_and_readable(tmp_path):
    folder = tmp_path / "class"
    assert (count_class_images(folder), missing_prior_images(folder, 5)) == (0, 5)
    paths = generate_prior_images(pipeline, folder, "a cat", 5, batch=2)
    assert [path.name for path in paths] == [f"prior-{i:05d}.png" for i in range(5)]
    assert missing_prior_images(folder, 5) == 0
    assert len(read_folder(folder, prompt="a cat")) == 5
    assert generate_prior_images(pipeline, folder, "a cat", 5) == []


def test_neither_batch_nor_interruption_changes_a_picture(tmp_path):
    generate_prior_images(pipeline, tmp_path / "a", "a cat", 5, seed=1, batch=5)
    calls = 0

    def interrupted(prompt, generator):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return pipeline(prompt, generator)

    with pytest.raises(KeyboardInterrupt):
        generate_prior_images(interrupted, tmp_path / "b", "a cat", 5, seed=1, batch=2)
    assert count_class_images(tmp_path / "b") == 2
    generate_prior_images(pipeline, tmp_path / "b", "a cat", 5, seed=1, batch=1)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_failed_write_leaves_nothing(tmp_path):
    class Full:
        def save(self, path, format):
            path.write_bytes(b"half a picture")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        generate_prior_images(lambda prompt, generator: SimpleNamespace(images=[Full()]), tmp_path, "a cat", 1)
    assert list(tmp_path.iterdir()) == []


def test_the_users_own_pictures_count(tmp_path, photo):
    photo(tmp_path / "mine.jpg")
    assert len(generate_prior_images(pipeline, tmp_path, "a cat", 3)) == 2
