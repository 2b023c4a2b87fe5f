"""Read a recipe against the world: model, method, photos, length. Nothing is loaded; all problems are said at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from intaglio.checkpoints.inspect import ModelInfo, inspect_model
from intaglio.data.photos import Picture
from intaglio.errors import Problems, UserError, lines_of
from intaglio.families.registry import family_of_pipeline
from intaglio.methods.base import Method
from intaglio.methods.registry import build_method, method_options
from intaglio.methods.settle import Settled, default_device, default_method_name, settle
from intaglio.quantizers.base import Base
from intaglio.training.recipe import Recipe


@dataclass(frozen=True)
class Plan:
    """A recipe that was checked: nothing is loaded yet."""

    recipe: Recipe
    settled: Settled
    model: ModelInfo
    photos: Sequence[Picture]
    steps: int

    @property
    def method(self) -> Method:
        return self.settled.method


def plan(recipe: Recipe, world_size: int = 1, device: torch.device | str | None = None) -> Plan:
    """Check everything that can be checked without loading weights; all problems at once.

    Raises:
        UserError: what is wrong with the model, the method or the data.
    """
    problems: list[str] = []
    settled = model = None
    photos: Sequence[Picture] = []
    try:
        model = inspect_model(recipe.model.pretrained_model_name_or_path, revision=recipe.model.revision)
        if model.pipeline_class is not None:  # a single file is known only once it is loaded
            family_of_pipeline(model.pipeline_class)
    except UserError as error:
        problems += lines_of(error)
    try:
        photos = read_photos(recipe)
    except UserError as error:
        problems += lines_of(error)
    try:
        settled = settle_recipe(recipe, None if model is None else model.format, device)
    except UserError as error:
        problems += lines_of(error)
    if problems:
        raise Problems("training cannot start", problems)
    assert settled is not None
    assert model is not None
    steps = _steps(recipe, photos, world_size)
    if recipe.output.trace_step is not None and recipe.output.trace_step > steps:
        raise UserError(f"trace_step = {recipe.output.trace_step}, but the run has {steps} steps; trace one of them")
    return Plan(_with_settled(recipe, settled), settled, model, photos, steps)


def settle_recipe(recipe: Recipe, present: str | None, device: torch.device | str | None = None) -> Settled:
    """What the recipe leaves open, settled for a model whose base lies in the format `present` (None: float)."""
    device = device or default_device()
    base = recipe.base
    return settle(
        build_method(recipe.method.name or default_method_name(device), recipe.method.options),
        base=Base(base.format, base.range_search, base.keep_float),
        compute="float" if recipe.device.unpack_base and recipe.device.compute == "auto" else recipe.device.compute,
        present=present,
        device=device,
        source=recipe.model.pretrained_model_name_or_path,
    )


def _with_settled(recipe: Recipe, settled: Settled) -> Recipe:
    """The recipe that says what was settled, so that a checkpoint records it and a resumed run goes on alike."""
    method = {"name": settled.method.name, "targets": recipe.method.targets, **method_options(settled.method)}
    return recipe.changed(method=method, compute=settled.compute)


def read_photos(recipe: Recipe) -> Sequence[Picture]:
    from intaglio.data.hub import read_dataset
    from intaglio.data.photos import read_folder

    if recipe.data.dataset_name is not None:
        return read_dataset(
            recipe.data.dataset_name,
            image_column=recipe.data.image_column,
            caption_column=recipe.data.caption_column,
            prompt=recipe.data.instance_prompt,
            repeats=recipe.data.repeats,
        )
    assert recipe.data.instance_data_dir is not None
    return read_folder(
        recipe.data.instance_data_dir,
        prompt=recipe.data.instance_prompt,
        image_column=recipe.data.image_column or "file_name",
        caption_column=recipe.data.caption_column,
        repeats=recipe.data.repeats,
    )


def _steps(recipe: Recipe, photos: Sequence[Picture], world_size: int) -> int:
    if recipe.steps.num_train_epochs is None:
        return recipe.steps.max_train_steps or 400
    per_step = recipe.steps.train_batch_size * recipe.steps.gradient_accumulation_steps * world_size
    shown = sum(photo.repeats for photo in photos) * recipe.steps.num_train_epochs
    return max(1, -(-shown // per_step))
