"""Sana: a linear transformer on the latents of a deep autoencoder, told raw steps and Gemma's text under a mask."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from intaglio.diffusion.flow import flow_objective
from intaglio.diffusion.objective import Objective, ObjectiveOptions
from intaglio.diffusion.time import Scaled
from intaglio.families.base import Conditioning, Family, empty
from intaglio.families.shape import Shape


class Sana(Family):
    name = "sana"
    pipelines = ("SanaPipeline",)
    denoisers = ("SanaTransformer2DModel",)
    attention_targets = ("to_q", "to_k", "to_v")
    keep_float = ("patch_embed", "time_embed", "caption_projection", "proj_out")
    time = Scaled(1000)
    text_tokens = 300
    shapes = (Shape("sana", "SanaTransformer2DModel", {}, 1024, pixels_per_latent=32, text_tokens=300),)

    def side_multiple(self, config: Any) -> int:
        return config["patch_size"]

    def objective(self, pipeline: Any, options: ObjectiveOptions, side: int) -> Objective:
        return flow_objective(
            pipeline.scheduler,
            options,
            convention=self.time,
            image_tokens=(side // pipeline.vae_scale_factor) ** 2,
        )

    @torch.no_grad()
    def encode_text(self, pipeline: Any, captions: list[str]) -> Conditioning:
        """`prompt_embeds` (B, 300, D) and `prompt_attention_mask` (B, 300), under the instruction that sampling has."""
        instruction = inspect.signature(type(pipeline).__call__).parameters["complex_human_instruction"].default
        embeds, mask, _, _ = pipeline.encode_prompt(
            captions, False, device=pipeline.device, complex_human_instruction=instruction
        )
        return {"prompt_embeds": embeds.cpu(), "prompt_attention_mask": mask.cpu()}

    def encode_images(self, pipeline: Any, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """This autoencoder is deterministic."""
        parameter = next(pipeline.vae.parameters())
        with torch.no_grad():
            return pipeline.vae.encode(pixels.to(parameter.device, parameter.dtype)).latent, None

    def predict(
        self, denoiser: Any, x_t: Tensor, time: Tensor, conditioning: Conditioning, guidance: float | None
    ) -> Tensor:
        return denoiser(
            x_t,
            encoder_hidden_states=conditioning["prompt_embeds"],
            encoder_attention_mask=conditioning["prompt_attention_mask"],
            timestep=time,
            return_dict=False,
        )[0]

    def sample_arguments(self, conditioning: Conditioning, empty: Conditioning, side: int) -> dict[str, Any]:
        return super().sample_arguments(conditioning, empty, side) | {
            "negative_prompt": None,
            "height": side,
            "width": side,
            "use_resolution_binning": False,
        }

    def empty_inputs(self, config: Any, *, side: int, batch: int, text_tokens: int) -> dict[str, Any]:
        return {
            "hidden_states": empty(batch, config.in_channels, side, side),
            "encoder_hidden_states": empty(batch, text_tokens, config.caption_channels),
        }


FAMILY = Sana()
