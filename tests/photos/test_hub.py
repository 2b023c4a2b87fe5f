"""Hub datasets, with the real package where it is installed."""

import sys

import pytest

from intaglio.data.hub import DatasetPhoto, read_dataset
from intaglio.data.photos import Photo
from intaglio.errors import Problems, UserError


def test_a_folder_is_read_as_a_folder(tmp_path, photo):
    path = photo(tmp_path / "a.png")
    assert read_dataset(str(tmp_path), prompt="sks dog") == [Photo(path, "sks dog")]


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"there is no such folder.*pip install 'intaglio\[hub\]'"):
        read_dataset("owner/dogs")


@pytest.fixture
def dogs(monkeypatch, tmp_path, photo):
    datasets = pytest.importorskip("datasets")
    paths = [str(photo(tmp_path / f"{i}.png", seed=i)) for i in range(2)]
    rows = datasets.Dataset.from_dict({"image": paths, "text": ["one", ""], "year": [1, 2]})
    rows = rows.cast_column("image", datasets.Image())
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: rows)
    return paths


def test_rows_are_opened_lazily(dogs, tmp_path):
    first, second = read_dataset("owner/dogs", prompt="a dog")
    assert isinstance(first, DatasetPhoto)
    assert (first.caption, second.caption) == ("one", "a dog")
    assert first.open().size == (20, 24)
    assert first.digest() == Photo(tmp_path / "0.png", "").digest()


def test_wrong_columns_are_named_together(dogs):
    with pytest.raises(Problems) as caught:
        read_dataset("owner/dogs", image_column="imag", caption_column="txt")
    assert caught.value.problems == [
        "no column 'imag' (did you mean 'image'?); it has image, text, year (--image_column)",
        "no column 'txt' (did you mean 'text'?); it has: image, text, year (--caption_column, or one "
        "--instance_prompt for all)",
    ]
    with pytest.raises(Problems, match="row 1: no 'text'; give --instance_prompt"):
        read_dataset("owner/dogs")
    with pytest.raises(Problems, match=r"column 'year' holds .* not images"):
        read_dataset("owner/dogs", image_column="year")
