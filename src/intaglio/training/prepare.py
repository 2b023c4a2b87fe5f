"""Before the first step: read the recipe against the world, load the pipeline, attach the method, fill the caches.

Everything that can be wrong with the input is found before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from intaglio.adapters.attach import attach
from intaglio.adapters.handle import Adapter
from intaglio.checkpoints.inspect import ModelInfo, inspect_model
from intaglio.checkpoints.load import denoiser_of, load_pipeline
from intaglio.data.cache import LatentCache, TextCache
from intaglio.data.photos import Picture
from intaglio.data.prior import generate_prior_images, missing_prior_images
from intaglio.data.transforms import PhotoTransform
from intaglio.diffusion.objective import ObjectiveOptions
from intaglio.errors import Problems, UserError, lines_of
from intaglio.families.base import Conditioning, Family
from intaglio.families.registry import family_of_pipeline
from intaglio.methods.base import Method
from intaglio.methods.registry import build_method, method_options
from intaglio.methods.settle import Settled, default_device, default_method_name, settle
from intaglio.quantizers.base import Base
from intaglio.runtime.memory import return_memory
from intaglio.training.batches import Batches, Source
from intaglio.training.recipe import Recipe
from intaglio.training.step import Loss

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


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


@dataclass
class Job:
    """Everything a run works with."""

    pipeline: Any
    denoiser: nn.Module
    adapter: Adapter
    family: Family
    loss: Loss
    batches: Batches
    validation: list[Conditioning]
    """Embeddings of each validation prompt, and of the empty one."""


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


def prepare(plan: Plan, device: torch.device, rank: int, world_size: int) -> Job:
    """Load, attach, cache. The pipeline ends without its text encoders: all texts are encoded by then."""
    recipe = plan.recipe
    dtype = DTYPES[recipe.device.mixed_precision] if not plan.method.trains_rest else torch.float32
    base, method = plan.settled.base, plan.method
    pipeline = load_pipeline(
        recipe.model.pretrained_model_name_or_path,
        revision=recipe.model.revision,
        variant=recipe.model.variant,
        torch_dtype=dtype,
        quantize_to=None if base is None or plan.model.format is not None else base,
    )
    family = family_of_pipeline(type(pipeline).__name__)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device)
    denoiser: Any = denoiser_of(pipeline)[1]
    resolution = recipe.data.resolution or family.resolution(pipeline)
    family.check_side(pipeline, resolution)
    objective = family.objective(pipeline, objective_options(recipe), resolution)

    sources = [_source(recipe, pipeline, family, plan.photos, "photos", 1.0, resolution)]
    if recipe.data.with_prior_preservation:
        sources.append(_prior_source(recipe, pipeline, family, resolution, rank))
    validation = [family.encode_text(pipeline, [p]) for p in (*recipe.validation.validation_prompt, "")]
    for name in [n for n in pipeline.components if n.startswith("text_encoder")]:
        setattr(pipeline, name, None)
    torch.manual_seed(recipe.steps.seed)  # the start of low-rank pairs
    adapter = attach(denoiser, method, targets=recipe.method.targets, compute=plan.settled.compute)
    if recipe.device.unpack_base:
        adapter.unpack_base()
    denoiser.train()
    if recipe.device.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    return_memory()
    batches = Batches(
        sources,
        seed=recipe.steps.seed,
        batch_size=recipe.steps.train_batch_size,
        resolution=resolution,
        family=family,
        objective=objective,
        normalize=lambda latent: family.normalize(pipeline, latent),
        noise_offset=recipe.steps.noise_offset,
        rank=rank,
        world_size=world_size,
    )
    loss = Loss(family, objective, adapter.times, recipe.steps.guidance_scale)
    return Job(pipeline, denoiser, adapter, family, loss, batches, validation)


def objective_options(recipe: Recipe) -> ObjectiveOptions:
    return ObjectiveOptions(**{field.name: getattr(recipe.steps, field.name) for field in fields(ObjectiveOptions)})


def _source(
    recipe: Recipe,
    pipeline: Any,
    family: Family,
    photos: Sequence[Picture],
    name: str,
    weight: float,
    resolution: int,
) -> Source:
    model_id = recipe.model.pretrained_model_name_or_path
    transform = PhotoTransform(
        resolution=resolution, center_crop=recipe.data.center_crop, random_flip=recipe.data.random_flip
    )
    text = TextCache(lambda captions: family.encode_text(pipeline, captions), model_id=model_id)
    text.fill([photo.caption for photo in photos])
    latents = LatentCache(photos, transform, lambda pixels: family.encode_images(pipeline, pixels), model_id=model_id)
    if recipe.data.cache_latents:
        latents.fill()
    return Source(name, latents, text, weight)


def _prior_source(recipe: Recipe, pipeline: Any, family: Family, resolution: int, rank: int) -> Source:
    from intaglio.data.photos import read_folder

    assert recipe.data.class_data_dir is not None
    assert recipe.data.class_prompt is not None
    if rank == 0 and missing_prior_images(recipe.data.class_data_dir, recipe.data.num_class_images):
        generate_prior_images(
            pipeline,
            recipe.data.class_data_dir,
            recipe.data.class_prompt,
            recipe.data.num_class_images,
            seed=recipe.steps.seed,
        )
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
    photos = read_folder(recipe.data.class_data_dir, prompt=recipe.data.class_prompt)
    return _source(recipe, pipeline, family, photos, "class pictures", recipe.data.prior_loss_weight, resolution)
