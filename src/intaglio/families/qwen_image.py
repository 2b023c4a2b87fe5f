"""Qwen-Image: packed latents of an autoencoder for frames, Qwen2.5-VL's text under a mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from intaglio.diffusion.flow import flow_objective
from intaglio.diffusion.objective import Objective, ObjectiveOptions
from intaglio.diffusion.time import Scaled
from intaglio.families import qwen_vae
from intaglio.families.base import Conditioning, Family, empty, trimmed
from intaglio.families.packing import pack, unpack
from intaglio.families.shape import Shape


class QwenImage(Family):
    name = "qwen-image"
    pipelines = ("QwenImagePipeline",)
    denoisers = ("QwenImageTransformer2DModel",)
    keep_float = ("img_in", "txt_in", "time_text_embed", "norm_out", "proj_out")
    time = Scaled(1)
    text_tokens = 512
    shapes = (Shape("qwen-image", "QwenImageTransformer2DModel", {}, 1024, text_tokens=512),)

    def side_multiple(self, config: Any) -> int:
        return 2

    def resolution(self, pipeline: Any) -> int:
        return pipeline.default_sample_size * pipeline.vae_scale_factor

    def objective(self, pipeline: Any, options: ObjectiveOptions, side: int) -> Objective:
        return flow_objective(
            pipeline.scheduler,
            options,
            convention=self.time,
            image_tokens=(side // (2 * pipeline.vae_scale_factor)) ** 2,
        )

    @torch.no_grad()
    def encode_text(self, pipeline: Any, captions: list[str]) -> Conditioning:
        """`prompt_embeds` (B, L, D) and `prompt_embeds_mask` (B, L), L of the longest caption."""
        embeds, mask = pipeline.encode_prompt(captions, device=pipeline.device)
        mask = torch.ones(embeds.shape[:2], dtype=torch.bool) if mask is None else mask.bool()
        return {"prompt_embeds": embeds.cpu(), "prompt_embeds_mask": mask.cpu()}

    def encode_images(self, pipeline: Any, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        return qwen_vae.encode(pipeline.vae, pixels)

    def normalize(self, pipeline: Any, latent: Tensor) -> Tensor:
        return qwen_vae.normalize(pipeline.vae, latent)

    def predict(
        self, denoiser: Any, x_t: Tensor, time: Tensor, conditioning: Conditioning, guidance: float | None
    ) -> Tensor:
        height, width = x_t.shape[-2:]
        text, mask = trimmed(conditioning["prompt_embeds"], conditioning["prompt_embeds_mask"])
        tokens = denoiser(
            hidden_states=pack(x_t),
            timestep=time,
            encoder_hidden_states=text,
            encoder_hidden_states_mask=mask,
            img_shapes=[[(1, height // 2, width // 2)]] * len(x_t),
            return_dict=False,
        )[0]
        return unpack(tokens, height, width)

    def sample_arguments(self, conditioning: Conditioning, empty: Conditioning, side: int) -> dict[str, Any]:
        return super().sample_arguments(conditioning, empty, side) | {"height": side, "width": side}

    def call_arguments(self, negative_prompt: list[str] | None, guidance_scale: float | None) -> dict[str, Any]:
        """Guidance by a second call, which the pipeline makes only where it is given a negative prompt."""
        found: dict[str, Any] = {} if negative_prompt is None else {"negative_prompt": negative_prompt}
        return found if guidance_scale is None else {**found, "true_cfg_scale": guidance_scale}

    def empty_inputs(self, config: Any, *, side: int, batch: int, text_tokens: int) -> dict[str, Any]:
        return {
            "hidden_states": empty(batch, (side // 2) ** 2, config.in_channels),
            "encoder_hidden_states": empty(batch, text_tokens, config.joint_attention_dim),
            "img_shapes": [[(1, side // 2, side // 2)]] * batch,
        }


FAMILY = QwenImage()
