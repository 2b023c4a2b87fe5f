"""What a family of models is: how its denoiser is told what to draw, where its latents come from, what its layers are.

An objective (`intaglio.diffusion`) says what is trained; a family says to whom, and in which words. A family is one
object without state, in one file; `intaglio.register_family` adds one from outside the package.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from intaglio.diffusion.objective import Objective, ObjectiveOptions
from intaglio.diffusion.time import Scaled, TimeConvention
from intaglio.errors import UserError
from intaglio.families.shape import Shape

Conditioning = dict[str, Tensor]
"""What a denoiser is told beside the noisy latent: tensors of (B, ...), by names that only the family knows."""

ATTENTION = "attention"
"""The target that stands for a family's projections of attention: what LoRA trains by default."""


class Denoisers(ABC):
    """Facts about the layers of denoisers, known from their class alone."""

    name: ClassVar[str]
    denoisers: ClassVar[tuple[str, ...]]
    """Names of their classes in diffusers."""
    component: ClassVar[str] = "transformer"
    """The pipeline's name for the denoiser, which starts the keys of LoRA files."""
    attention_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    """Ends of the names of the layers that the family's LoRA script trains."""
    keep_float: ClassVar[tuple[str, ...]]
    """Starts of the names of layers that stay float: those next to the pixels and the conditioning. They hold few of
    the weights, every other layer depends on them, and their inputs have the widest ranges."""
    time: ClassVar[TimeConvention]
    """What the denoiser is called with for a time."""
    shapes: ClassVar[tuple[Shape, ...]] = ()
    """Configurations of published checkpoints, for what depends on shapes alone."""
    text_tokens: ClassVar[int] = 77
    """Of a prompt, where shapes alone are asked for."""
    shared_layers: ClassVar[tuple[str, ...]] = ()
    """Starts of the names of layers whose rows do not belong to one sample each, in order: no timestep reaches them."""

    def spell_out(self, targets: Sequence[str] | None) -> tuple[str, ...] | None:
        """`targets` with `attention` replaced by this family's names."""
        if targets is None:
            return None
        return tuple(name for t in targets for name in (self.attention_targets if t == ATTENTION else (t,)))

    def side_multiple(self, config: Mapping[str, Any]) -> int:
        """Latents a side that the denoiser folds into one token."""
        return 1

    def empty_inputs(self, config: Any, *, side: int, batch: int, text_tokens: int) -> dict[str, Any]:
        """Keyword arguments for one call of the denoiser but its time, of meta tensors.

        Args:
            side: of the latents.
        """
        raise UserError(
            f"the inputs of {self.name} models are not known here. From Python, intaglio.trace.record records any step "
            "that you write"
        )


class Family(Denoisers):
    """All that `train`, validation and `generate` ask of a pipeline."""

    pipelines: ClassVar[tuple[str, ...]]
    """Names of their classes in diffusers."""
    single_files: ClassVar[Mapping[str, str]] = {}
    """diffusers' own name for what a single file holds -> the pipeline for it."""

    @abstractmethod
    def objective(self, pipeline: Any, options: ObjectiveOptions, side: int) -> Objective:
        """What is trained. Raises a `UserError` for a scheduler that does not fit.

        Args:
            side: of the images in pixels.
        """

    @abstractmethod
    def encode_text(self, pipeline: Any, captions: list[str]) -> Conditioning:
        """Tensors of (B, ...) on the CPU, of one shape for every caption, so that captions can be stacked."""

    def encode_images(self, pipeline: Any, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, 3, H, W) in [-1, 1] -> mean and log-variance of the latents (B, C, h, w), as the encoder gives them; no
        log-variance where the latents are the mean."""
        parameter = next(pipeline.vae.parameters())
        with torch.no_grad():
            posterior = pipeline.vae.encode(pixels.to(parameter.device, parameter.dtype)).latent_dist
        return posterior.mean, posterior.logvar

    def normalize(self, pipeline: Any, latent: Tensor) -> Tensor:
        """A latent (C, h, w) of the encoder -> the unit variance, and the form, that the denoiser is trained on."""
        config = pipeline.vae.config
        return (latent - (getattr(config, "shift_factor", None) or 0.0)) * config.scaling_factor

    def image_conditioning(
        self, original_size: tuple[int, int], crop_top_left: tuple[int, int], side: int
    ) -> dict[str, list[float]]:
        """What the denoiser is told about a photo (heights first, in pixels), for one sample."""
        return {}

    @abstractmethod
    def predict(
        self, denoiser: Any, x_t: Tensor, time: Tensor, conditioning: Conditioning, guidance: float | None
    ) -> Tensor:
        """The prediction (B, C, h, w).

        Args:
            x_t: (B, C, h, w), of `normalize`.
            time: (B,) what the objective's `model_time` gives, on the device of `x_t`.
            guidance: of models that are told one; None is the family's default.
        """

    def sample_arguments(self, conditioning: Conditioning, empty: Conditioning, side: int) -> dict[str, Any]:
        """Arguments of the pipeline's call for prompts that are encoded; `empty` is the empty prompt, for guidance."""
        arguments: dict[str, Any] = {}
        for key, value in conditioning.items():
            arguments[key], arguments[f"negative_{key}"] = value, empty[key]
        return arguments

    def call_arguments(self, negative_prompt: list[str] | None, guidance_scale: float | None) -> dict[str, Any]:
        """Arguments of the pipeline's call for prompts as words; None is the pipeline's own default."""
        given = {"negative_prompt": negative_prompt, "guidance_scale": guidance_scale}
        return {key: value for key, value in given.items() if value is not None}

    def resolution(self, pipeline: Any) -> int:
        """The side in pixels that the model was trained at."""
        denoiser: Any = getattr(pipeline, self.component)
        return int(denoiser.config.sample_size * pipeline.vae_scale_factor)

    def check_side(self, pipeline: Any, side: int) -> None:
        """Raise a `UserError` for images that the model cannot cut into tokens."""
        denoiser: Any = getattr(pipeline, self.component)
        multiple = pipeline.vae_scale_factor * self.side_multiple(denoiser.config)
        if side % multiple:
            raise UserError(
                f"resolution {side}: {type(pipeline).__name__} takes sides of a multiple of {multiple} pixels, for "
                f"example {max(1, side // multiple) * multiple}"
            )


class Unknown(Denoisers):
    """Any other denoiser of diffusers: `attach` and `quantize` take it, by names that most of them share."""

    name = "unknown"
    denoisers = ()
    keep_float = (
        "conv_in",
        "conv_out",
        "time_embedding",
        "add_embedding",
        "class_embedding",
        "time_text_embed",
        "time_proj",
        "pos_embed",
        "x_embedder",
        "context_embedder",
        "caption_projection",
        "norm_out",
        "proj_out",
    )
    time = Scaled(1000)


def empty(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


def masked_rows(embeds: Tensor, mask: Tensor) -> list[Tensor]:
    """(B, L, D) under (B, L) -> for each sample its own tokens, (length, D)."""
    return [each[kept.bool()] for each, kept in zip(embeds, mask, strict=True)]


def trimmed(embeds: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
    """Without the columns that no sample uses; no mask where every token is used, as pipelines have it."""
    length = int(mask.bool().any(0).nonzero().max()) + 1
    embeds, mask = embeds[:, :length], mask[:, :length].bool()
    return embeds, None if bool(mask.all()) else mask
