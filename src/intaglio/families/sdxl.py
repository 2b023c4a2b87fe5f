"""Stable Diffusion XL: a U-Net that is also told a pooled text, and the size and crop of the photo."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from intaglio.families.base import Conditioning
from intaglio.families.shape import Shape
from intaglio.families.unet import UNetFamily


class StableDiffusionXL(UNetFamily):
    name = "sdxl"
    pipelines = ("StableDiffusionXLPipeline",)
    single_files = dict.fromkeys(("xl_base",), "StableDiffusionXLPipeline")
    shapes = (
        Shape(
            "sdxl",
            "UNet2DConditionModel",
            {
                "sample_size": 128,
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                "block_out_channels": (320, 640, 1280),
                "transformer_layers_per_block": (1, 2, 10),
                "attention_head_dim": (5, 10, 20),
                "cross_attention_dim": 2048,
                "use_linear_projection": True,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": 2816,
            },
            1024,
        ),
    )

    @torch.no_grad()
    def encode_text(self, pipeline: Any, captions: list[str]) -> Conditioning:
        """`prompt_embeds` (B, L, D) and `pooled_prompt_embeds` (B, P)."""
        encoded = pipeline.encode_prompt(
            prompt=captions,
            device=pipeline.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        return {"prompt_embeds": encoded[0].cpu(), "pooled_prompt_embeds": encoded[2].cpu()}

    def encode_images(self, pipeline: Any, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """In float32 where the autoencoder says `force_upcast`: XL's first one overflows in float16."""
        vae = pipeline.vae
        half = next(vae.parameters()).dtype
        if half != torch.float16 or not vae.config.force_upcast:
            return super().encode_images(pipeline, pixels)
        vae.to(torch.float32)
        try:
            return super().encode_images(pipeline, pixels)
        finally:
            vae.to(half)

    def image_conditioning(
        self, original_size: tuple[int, int], crop_top_left: tuple[int, int], side: int
    ) -> dict[str, list[float]]:
        """`time_ids` (6,): original size, crop, target size."""
        return {"time_ids": [float(n) for n in (*original_size, *crop_top_left, side, side)]}

    def predict(
        self, denoiser: Any, x_t: Tensor, time: Tensor, conditioning: Conditioning, guidance: float | None
    ) -> Tensor:
        return denoiser(
            x_t,
            time,
            encoder_hidden_states=conditioning["prompt_embeds"],
            added_cond_kwargs={
                "text_embeds": conditioning["pooled_prompt_embeds"],
                "time_ids": conditioning["time_ids"],
            },
            return_dict=False,
        )[0]


FAMILY = StableDiffusionXL()
