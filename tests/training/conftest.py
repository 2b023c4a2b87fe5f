"""A tiny pipeline on disk and three photos of a red square."""

from __future__ import annotations

import shutil

import pytest
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from tiny_pipelines import PIXELS, make_pipeline


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "sd"
    make_pipeline("sd").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "sdxl"
    make_pipeline("sdxl").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(3):
        image = Image.new("RGB", (PIXELS * 2, PIXELS * 2), "white")
        ImageDraw.Draw(image).rectangle((4, 4, 16 + 4 * number, 20), fill="red")
        image.save(folder / f"{number}.png")
    return folder


@pytest.fixture
def recipe(sd_folder, photo_folder, tmp_path):
    """`recipe(**changes)` -> a short run."""
    from intaglio.training.recipe import Recipe

    def make(**changes):
        values = {
            "pretrained_model_name_or_path": str(sd_folder),
            "instance_data_dir": photo_folder,
            "instance_prompt": "sks square",
            "output_dir": tmp_path / "out",
            "max_train_steps": 3,
            "train_batch_size": 2,
            "range_search": "absmax",
            "report_to": "none",
            "learning_rate": 1e-2,
        }
        return Recipe.model_validate({**values, **changes})

    return make


@pytest.fixture
def resumed(recipe, tmp_path):
    """`resumed(steps, **options)` -> the tensors of a whole run, and of one that was left half-way and went on;
    `of_first` are options of that run alone."""
    from intaglio.adapters.file import find_file
    from intaglio.training.run import train

    def run(steps, *, of_first=None, **options):
        options = {**options, "max_train_steps": steps, "checkpointing_steps": steps // 2}
        whole = recipe(output_dir=tmp_path / "whole", **options)
        train(whole)
        first = recipe(output_dir=tmp_path / "first", **options, **(of_first or {}))
        train(first)
        shutil.rmtree(first.output.output_dir / f"checkpoint-{steps}")
        train(first.changed(resume_from_checkpoint="latest"))
        return load_file(find_file(whole.output.output_dir)), load_file(find_file(first.output.output_dir))

    return run
