"""Photos and texts as the denoiser is told them: encoded once, and with `cache_dir` not even once a run.

What lies in `cache_dir` is keyed by what made it: the encoders' files, the precision, the transform. A run whose texts
are all there loads no text encoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from intaglio.checkpoints.inspect import EMBEDDED, ModelInfo, embedded_base
from intaglio.data.cache import LatentCache, TextCache
from intaglio.data.photos import Picture, read_folder
from intaglio.data.prior import generate_prior_images, missing_prior_images
from intaglio.data.transforms import PhotoTransform
from intaglio.families.base import Conditioning, Family
from intaglio.training.batches import Source
from intaglio.training.plan import Plan
from intaglio.training.recipe import Recipe

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Texts:
    """The texts of a run: captions, class prompt, validation prompts."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self._encoders: tuple[Any, Family] | None = None
        self.cache = TextCache(self._encode, model_id=identity(plan), folder=plan.recipe.data.cache_dir)

    def components_left_out(self) -> dict[str, Any]:
        """Arguments of `load_pipeline`: the text encoders, if every text is on the disk already."""
        return dict.fromkeys(self.plan.model.text_encoders) if self._all_there() else {}

    def encode_with(self, pipeline: Any, family: Family) -> None:
        self._encoders = pipeline, family

    def encode(self, texts: Sequence[str]) -> Conditioning:
        """One batch, stacked."""
        self.cache.fill(texts)
        return self.cache.get(texts)

    def _all_there(self) -> bool:
        recipe = self.plan.recipe
        data = recipe.data
        wanted = [*(photo.caption for photo in self.plan.photos), *validation_texts(recipe)]
        if data.with_prior_preservation:
            assert data.class_data_dir is not None
            if missing_prior_images(data.class_data_dir, data.num_class_images):
                return False  # they are yet to be drawn
            wanted += [photo.caption for photo in read_folder(data.class_data_dir, prompt=data.class_prompt)]
        return data.cache_dir is not None and self.cache.has(wanted)

    def _encode(self, texts: list[str]) -> Conditioning:
        assert self._encoders is not None
        pipeline, family = self._encoders
        return family.encode_text(pipeline, texts)


def validation_texts(recipe: Recipe) -> tuple[str, ...]:
    """The validation prompts, and the empty one last."""
    return (*recipe.validation.validation_prompt, "")


def photo_source(plan: Plan, texts: Texts, pipeline: Any, family: Family, resolution: int) -> Source:
    return _source(plan, texts, pipeline, family, plan.photos, "photos", 1.0, resolution)


def prior_source(plan: Plan, texts: Texts, pipeline: Any, family: Family, resolution: int, rank: int) -> Source:
    """The class images; those that are missing are drawn first, by the main process."""
    data, seed = plan.recipe.data, plan.recipe.steps.seed
    assert data.class_data_dir is not None
    assert data.class_prompt is not None
    if rank == 0 and missing_prior_images(data.class_data_dir, data.num_class_images):
        draw = family.prior_pipeline(pipeline, resolution)
        generate_prior_images(draw, data.class_data_dir, data.class_prompt, data.num_class_images, seed=seed)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
    photos = read_folder(data.class_data_dir, prompt=data.class_prompt)
    weight = data.prior_loss_weight
    return _source(plan, texts, pipeline, family, photos, "class pictures", weight, resolution)


def _source(
    plan: Plan,
    texts: Texts,
    pipeline: Any,
    family: Family,
    photos: Sequence[Picture],
    name: str,
    weight: float,
    resolution: int,
) -> Source:
    data = plan.recipe.data
    transform = PhotoTransform(resolution=resolution, center_crop=data.center_crop, random_flip=data.random_flip)
    texts.cache.fill([photo.caption for photo in photos])
    latents = LatentCache(
        photos,
        transform,
        lambda pixels: family.encode_images(pipeline, pixels),
        model_id=identity(plan),
        folder=data.cache_dir,
    )
    if data.cache_latents:
        latents.fill()
    return Source(name, latents, texts.cache, weight)


def identity(plan: Plan) -> str:
    """What the encoders are: their files, the precision that they compute in, and who calls them."""
    recipe = plan.recipe
    precision = "no" if plan.method.trains_rest else recipe.device.mixed_precision
    model = recipe.model
    where = _hub_commit(plan.model, model.revision) or _fingerprint(plan.model)
    return repr((model.pretrained_model_name_or_path, model.revision, model.variant, where, precision))


def _fingerprint(model: ModelInfo) -> str:
    """Names, sizes and times of all files but the denoiser's. A link into a hub cache counts by what it points to."""
    path = embedded_base() if model.source == EMBEDDED else Path(model.source).expanduser()
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        within = file.relative_to(path).as_posix() if file != path else file.name
        if file.is_file() and within.partition("/")[0] != model.denoiser:
            status = file.stat()
            digest.update(repr((within, file.resolve().name, status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()


def _hub_commit(model: ModelInfo, revision: str | None) -> str | None:
    """The commit of a Hub id whose index was downloaded, None for what lies in a folder or file."""
    if model.folder is not None or model.is_single_file:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model.source, "model_index.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else None
