"""`cache_dir`: a second run on the same photos encodes nothing and loads no text encoder, with the same numbers."""

from __future__ import annotations

import os
import shutil

import pytest
from diffusers import DiffusionPipeline

from intaglio.events import Encoded, Stepped
from intaglio.training.loop import train

SAME = {"method": "qlora", "rank": 2, "max_train_steps": 2, "validation_prompt": ("a cat",), "num_validation_images": 1}


@pytest.fixture
def loaded(monkeypatch):
    """The text encoders of each pipeline that is loaded."""
    found = []
    load = DiffusionPipeline.from_pretrained.__func__

    def watched(cls, *arguments, **options):
        pipeline = load(cls, *arguments, **options)
        found.append([n for n, c in pipeline.components.items() if n.startswith("text_encoder") and c is not None])
        return pipeline

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", classmethod(watched))
    return found


def losses(recipe):
    events = list(train(recipe))
    return [e.loss for e in events if isinstance(e, Stepped)], next(e for e in events if isinstance(e, Encoded))


@pytest.mark.parametrize("model", ["sd", "sdxl"])
def test_the_second_run_loads_no_text_encoder(model, recipe, request, tmp_path, loaded):
    folder = request.getfixturevalue(f"{model}_folder")
    made = recipe(**SAME, pretrained_model_name_or_path=str(folder), cache_dir=tmp_path / "cache")
    plain, without = losses(recipe(**SAME, pretrained_model_name_or_path=str(folder)))
    assert without.from_cache == 0
    first, encoded = losses(made)
    assert (encoded.images, encoded.texts, encoded.from_cache) == (3, 3, 0)
    second, again = losses(made.changed(output_dir=tmp_path / "second"))
    assert again.from_cache == 6
    assert first == second == plain
    assert loaded[0] == loaded[1] != []
    assert loaded[2] == []
    images = [tmp_path / name / "samples" / "final.png" for name in ("out", "second")]
    assert images[0].read_bytes() == images[1].read_bytes()


def test_what_made_it_is_its_key(recipe, sd_folder, tmp_path, loaded):
    """Another text, another precision, other files of the encoders: encoded anew."""
    model = tmp_path / "model"
    shutil.copytree(sd_folder, model)
    made = recipe(**SAME, pretrained_model_name_or_path=str(model), cache_dir=tmp_path / "cache")
    losses(made)
    assert losses(made)[1].from_cache == 6
    assert losses(made.changed(validation_prompt=("a dog",)))[1].from_cache == 5
    assert loaded[-1] == ["text_encoder"]
    assert losses(made.changed(mixed_precision="bf16"))[1].from_cache == 0
    (weights,) = (model / "text_encoder").glob("*.safetensors")
    os.utime(weights, ns=(1, 1))
    assert losses(made)[1].from_cache == 0


def test_a_damaged_cache_is_encoded_again(recipe, tmp_path):
    made = recipe(**SAME, cache_dir=tmp_path / "cache")
    before, _ = losses(made)
    for file in (tmp_path / "cache").iterdir():
        file.write_bytes(file.read_bytes()[:30])
    after, encoded = losses(made)
    assert after == before
    assert encoded.from_cache == 0


def test_class_images_that_are_missing_need_the_text_encoder(recipe, tmp_path, loaded):
    prior = {"with_prior_preservation": True, "class_data_dir": tmp_path / "class", "class_prompt": "a square"}
    made = recipe(**SAME, **prior, num_class_images=1, cache_dir=tmp_path / "cache")
    first, _ = losses(made)
    second, _ = losses(made)
    assert first == second
    assert loaded == [["text_encoder"], []]
    (image,) = (tmp_path / "class").iterdir()
    image.unlink()
    losses(made)
    assert loaded[-1] == ["text_encoder"]
