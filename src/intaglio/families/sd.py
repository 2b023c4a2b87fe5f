"""Stable Diffusion 1.x and 2.x: a U-Net that is told the text by cross-attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from intaglio.families.base import Conditioning
from intaglio.families.shape import Shape
from intaglio.families.unet import UNetFamily


class StableDiffusion(UNetFamily):
    name = "sd"
    pipelines = ("StableDiffusionPipeline",)
    single_files = dict.fromkeys(("v1", "v2"), "StableDiffusionPipeline")
    shapes = (
        Shape(
            "sd15",
            "UNet2DConditionModel",
            {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
            512,
        ),
    )

    @torch.no_grad()
    def encode_text(self, pipeline: Any, captions: list[str]) -> Conditioning:
        """`prompt_embeds` (B, L, D)."""
        encoded = pipeline.encode_prompt(
            prompt=captions,
            device=pipeline.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        return {"prompt_embeds": encoded[0].cpu()}

    def predict(
        self, denoiser: Any, x_t: Tensor, time: Tensor, conditioning: Conditioning, guidance: float | None
    ) -> Tensor:
        return denoiser(x_t, time, encoder_hidden_states=conditioning["prompt_embeds"], return_dict=False)[0]


FAMILY = StableDiffusion()
