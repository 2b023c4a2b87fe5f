"""From a plan to a model that trains on encoded photos: load the pipeline, encode, attach the method."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from intaglio.adapters.attach import attach
from intaglio.adapters.handle import Adapter
from intaglio.checkpoints.load import denoiser_of, load_pipeline
from intaglio.diffusion.objective import ObjectiveOptions
from intaglio.families.base import Conditioning, Family
from intaglio.families.registry import family_of_pipeline
from intaglio.runtime.memory import return_memory
from intaglio.training.batches import Batches
from intaglio.training.encode import DTYPES, Texts, photo_source, prior_source, validation_texts
from intaglio.training.plan import Plan
from intaglio.training.recipe import Recipe
from intaglio.training.step import Loss


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


def prepare(plan: Plan, device: torch.device, rank: int, world_size: int) -> Job:
    """Load, attach, cache. The pipeline ends without its text encoders: all texts are encoded by then."""
    recipe, texts = plan.recipe, Texts(plan)
    dtype = DTYPES[recipe.device.mixed_precision] if not plan.method.trains_rest else torch.float32
    base, method = plan.settled.base, plan.method
    pipeline = load_pipeline(
        recipe.model.pretrained_model_name_or_path,
        revision=recipe.model.revision,
        variant=recipe.model.variant,
        torch_dtype=dtype,
        quantize_to=None if base is None or plan.model.format is not None else base,
        **texts.components_left_out(),
    )
    family = family_of_pipeline(type(pipeline).__name__)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device)
    denoiser: Any = denoiser_of(pipeline)[1]
    resolution = recipe.data.resolution or family.resolution(pipeline)
    family.check_side(pipeline, resolution)
    objective = family.objective(pipeline, objective_options(recipe), resolution)

    texts.encode_with(pipeline, family)
    sources = [photo_source(plan, texts, pipeline, family, resolution)]
    if recipe.data.with_prior_preservation:
        sources.append(prior_source(plan, texts, pipeline, family, resolution, rank))
    validation = [texts.encode([prompt]) for prompt in validation_texts(recipe)]
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
