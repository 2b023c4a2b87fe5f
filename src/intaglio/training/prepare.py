"""Before the first step: read the recipe against the world, load the pipeline, attach the method, fill the caches.

Everything that can be wrong with the input is found before anything is loaded.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as with_fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from intaglio.adapters.attach import attach
from intaglio.adapters.header import read_header
from intaglio.adapters.handle import Adapter
from intaglio.checkpoints.inspect import ModelInfo, inspect_model
from intaglio.checkpoints.load import denoiser_of, load_pipeline
from intaglio.data.cache import LatentCache, TextCache
from intaglio.data.photos import Picture
from intaglio.data.prior import generate_prior_images, missing_prior_images
from intaglio.data.transforms import PhotoTransform
from intaglio.diffusion.objective import training_scheduler
from intaglio.errors import Problems, Slower, UserError, lines_of
from intaglio.kernels.binding import path_in_use
from intaglio.kernels.weight_product import is_exact_by_int_mm, is_plain
from intaglio.layers.integer import GEMMS
from intaglio.layers.model import KEEP_FLOAT, return_memory
from intaglio.methods.base import Method
from intaglio.methods.registry import build_method
from intaglio.quantizers.formats import parse_format
from intaglio.training import conditioning
from intaglio.training.batches import Batches, Source
from intaglio.training.recipe import Recipe

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Plan:
    """A recipe that was checked: nothing is loaded yet."""

    recipe: Recipe
    method: Method
    model: ModelInfo
    photos: Sequence[Picture]
    steps: int

    @property
    def base(self) -> str | None:
        """Format of the frozen weights, None for float ones."""
        if not self.method.needs_base:
            return None
        return self.model.format or getattr(self.method, "base", None) or self.method.default_base


@dataclass
class Job:
    """Everything a run works with."""

    pipeline: Any
    denoiser: nn.Module
    adapter: Adapter
    scheduler: Any
    batches: Batches
    validation: list[dict[str, torch.Tensor]]
    """Embeddings of each validation prompt, and of the empty one."""


def plan(recipe: Recipe, world_size: int = 1) -> Plan:
    """Check everything that can be checked without loading weights; all problems at once.

    Raises:
        UserError: what is wrong with the model, the method or the data.
    """
    problems: list[str] = []
    method = model = None
    photos: Sequence[Picture] = []
    try:
        method = build_method(recipe.method, recipe.method_options())
    except UserError as error:
        problems += lines_of(error)
    try:
        model = inspect_model(recipe.pretrained_model_name_or_path, revision=recipe.revision)
        conditioning.check_pipeline(model.pipeline_class, model.denoiser_class)
    except UserError as error:
        problems += lines_of(error)
    try:
        photos = read_photos(recipe)
    except UserError as error:
        problems += lines_of(error)
    if method is not None and model is not None:
        problems += _base_problems(method, model)
    if problems:
        raise Problems("training cannot start", problems)
    assert method is not None
    assert model is not None
    steps = _steps(recipe, photos, world_size)
    if recipe.trace_step is not None and recipe.trace_step > steps:
        raise UserError(f"trace_step = {recipe.trace_step}, but the run has {steps} steps; trace one of them")
    return Plan(recipe, method, model, photos, steps)


def choose_products(plan: Plan, checkpoint: Path | None = None) -> Plan:
    """The plan, with what the recipe leaves open: whether a quantized base is multiplied in integers.

    On a CPU it is, if the kernels are compiled or torch's own product is exact: that is faster and takes less memory.
    The adapter's file says what was chosen, so pictures are drawn alike, and a run that resumes goes on alike.
    """
    if plan.method.name == "int8_lora" and torch.accelerator.is_available():
        warnings.warn(
            "int8_lora has no kernels for this device: its INT8 products run as exact float32 ones. "
            "--method qlora --rank 2 --targets all trains the pairs of the default in float, faster",
            Slower,
            stacklevel=2,
        )
    recipe, chosen = plan.recipe, getattr(plan.method, "integer_gemms", None)
    if plan.base is None or chosen != () or recipe.integer_gemms is not None or recipe.unpack_base:
        return plan
    before = None if checkpoint is None else read_header(checkpoint)
    gemms = tuple(before.options["integer_gemms"]) if before is not None else _fastest_products(plan.base)
    return with_fields(plan, method=with_fields(plan.method, integer_gemms=gemms))  # type: ignore[call-arg]


def _fastest_products(base: str) -> tuple[str, ...]:
    if torch.accelerator.is_available():
        return ()
    if path_in_use() != "torch":
        return GEMMS
    format = parse_format(base)
    if not is_plain(format):
        why = "torch alone would make codes for its INT8 product from it at every call, which takes longer"
    elif not is_exact_by_int_mm(format):
        why = "torch's INT8 product is not exact for it on this processor"
    else:
        return GEMMS
    warnings.warn(
        f"a base in {base} is multiplied in float here, on unpacked weights: compiled kernels are not in use, and "
        f"{why}",
        Slower,
        stacklevel=3,
    )
    return ()


def read_photos(recipe: Recipe) -> Sequence[Picture]:
    from intaglio.data.hub import read_dataset
    from intaglio.data.photos import read_folder

    if recipe.dataset_name is not None:
        return read_dataset(
            recipe.dataset_name,
            image_column=recipe.image_column,
            caption_column=recipe.caption_column,
            prompt=recipe.instance_prompt,
            repeats=recipe.repeats,
        )
    assert recipe.instance_data_dir is not None
    return read_folder(
        recipe.instance_data_dir,
        prompt=recipe.instance_prompt,
        image_column=recipe.image_column or "file_name",
        caption_column=recipe.caption_column,
        repeats=recipe.repeats,
    )


def _base_problems(method: Method, model: ModelInfo) -> list[str]:
    if model.format is None:
        base = getattr(method, "base", None)
        try:
            parse_format(base or method.default_base)
        except UserError as error:
            return [str(error)]
        return []
    if not method.needs_base:
        return [f"method {method.name} trains beside float weights, but {model.source} is quantized to {model.format}"]
    wanted = getattr(method, "base", None)
    if wanted is not None and wanted != model.format:
        return [f"base = {wanted!r}, but {model.source} is quantized to {model.format!r}; leave base out"]
    try:
        with_fields(method, base=model.format)  # type: ignore[call-arg]
    except UserError as error:
        return [str(error)]
    return []


def _steps(recipe: Recipe, photos: Sequence[Picture], world_size: int) -> int:
    if recipe.num_train_epochs is None:
        return recipe.max_train_steps or 400
    per_step = recipe.train_batch_size * recipe.gradient_accumulation_steps * world_size
    shown = sum(photo.repeats for photo in photos) * recipe.num_train_epochs
    return max(1, -(-shown // per_step))


def prepare(plan: Plan, device: torch.device, rank: int, world_size: int) -> Job:
    """Load, attach, cache. The pipeline ends without its text encoders: all texts are encoded by then."""
    recipe = plan.recipe
    dtype = DTYPES[recipe.mixed_precision] if plan.method.name != "full" else torch.float32
    keep_float = KEEP_FLOAT if recipe.keep_float is None else recipe.keep_float
    pipeline = load_pipeline(
        recipe.pretrained_model_name_or_path,
        revision=recipe.revision,
        variant=recipe.variant,
        torch_dtype=dtype,
        quantize_to=plan.base,
        range_search=recipe.range_search,
        keep_float=keep_float,
    )
    conditioning.check_pipeline(type(pipeline).__name__, None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device)
    scheduler = training_scheduler(pipeline.scheduler)
    denoiser: Any = denoiser_of(pipeline)[1]
    resolution = recipe.resolution or int(denoiser.config.sample_size * pipeline.vae_scale_factor)

    sources = [_source(recipe, pipeline, plan.photos, "photos", 1.0, resolution)]
    if recipe.with_prior_preservation:
        sources.append(_prior_source(recipe, pipeline, resolution, rank))
    validation = [
        {"prompt_embeds": v["prompt_embeds"], **{k: t for k, t in v.items() if k != "prompt_embeds"}}
        for v in (conditioning.encode_text(pipeline, [p]) for p in (*recipe.validation_prompt, ""))
    ]
    for name in ("text_encoder", "text_encoder_2"):
        if getattr(pipeline, name, None) is not None:
            setattr(pipeline, name, None)
    torch.manual_seed(recipe.seed)  # the start of low-rank pairs
    adapter = attach(denoiser, plan.method, targets=recipe.targets, keep_float=keep_float)
    if recipe.unpack_base:
        adapter.unpack_base()
    denoiser.train()
    if recipe.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    return_memory()
    vae = pipeline.vae
    batches = Batches(
        sources,
        seed=recipe.seed,
        batch_size=recipe.train_batch_size,
        resolution=resolution,
        num_timesteps=scheduler.config.num_train_timesteps,
        noise_offset=recipe.noise_offset,
        scale=vae.config.scaling_factor,
        shift=getattr(vae.config, "shift_factor", None) or 0.0,
        rank=rank,
        world_size=world_size,
    )
    return Job(pipeline, denoiser, adapter, scheduler, batches, validation)


def _source(
    recipe: Recipe, pipeline: Any, photos: Sequence[Picture], name: str, weight: float, resolution: int
) -> Source:
    model_id = recipe.pretrained_model_name_or_path
    transform = PhotoTransform(resolution=resolution, center_crop=recipe.center_crop, random_flip=recipe.random_flip)
    text = TextCache(lambda captions: conditioning.encode_text(pipeline, captions), model_id=model_id)
    text.fill([photo.caption for photo in photos])
    latents = LatentCache(
        photos, transform, lambda pixels: conditioning.encode_images(pipeline.vae, pixels), model_id=model_id
    )
    if recipe.cache_latents:
        latents.fill()
    return Source(name, latents, text, weight)


def _prior_source(recipe: Recipe, pipeline: Any, resolution: int, rank: int) -> Source:
    from intaglio.data.photos import read_folder

    assert recipe.class_data_dir is not None
    assert recipe.class_prompt is not None
    if rank == 0 and missing_prior_images(recipe.class_data_dir, recipe.num_class_images):
        generate_prior_images(
            pipeline, recipe.class_data_dir, recipe.class_prompt, recipe.num_class_images, seed=recipe.seed
        )
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
    photos = read_folder(recipe.class_data_dir, prompt=recipe.class_prompt)
    return _source(recipe, pipeline, photos, "class pictures", recipe.prior_loss_weight, resolution)
