"""Stable Diffusion 3 and 3.5: a transformer over image and text tokens, told raw steps; flow matching."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from intaglio.diffusion.flow import flow_objective
from intaglio.diffusion.objective import Objective, ObjectiveOptions
from intaglio.diffusion.time import Scaled
from intaglio.families.base import Conditioning, Family, empty
from intaglio.families.shape import Shape


class StableDiffusion3(Family):
    name = "sd3"
    pipelines = ("StableDiffusion3Pipeline",)
    single_files = dict.fromkeys(("sd3", "sd35_large", "sd35_medium"), "StableDiffusion3Pipeline")
    denoisers = ("SD3Transformer2DModel",)
    attention_targets = (
        *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
        *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    )
    keep_float = ("pos_embed", "time_text_embed", "context_embedder", "norm_out", "proj_out")
    time = Scaled(1000)
    text_tokens = 333  # 77 of CLIP and 256 of T5
    shapes = (
        Shape(
            "sd3",
            "SD3Transformer2DModel",
            {
                "sample_size": 128,
                "num_layers": 24,
                "num_attention_heads": 24,
                "caption_projection_dim": 1536,
                "pos_embed_max_size": 192,
            },
            1024,
            text_tokens=333,
        ),
        Shape(
            "sd35-medium",
            "SD3Transformer2DModel",
            {
                "sample_size": 128,
                "num_layers": 24,
                "num_attention_heads": 24,
                "caption_projection_dim": 1536,
                "pos_embed_max_size": 384,
                "dual_attention_layers": tuple(range(13)),
                "qk_norm": "rms_norm",
            },
            1024,
            text_tokens=333,
        ),
    )

    def side_multiple(self, config: Any) -> int:
        return config["patch_size"]

    def objective(self, pipeline: Any, options: ObjectiveOptions, side: int) -> Objective:
        """As the script has it by default: log-normal times, and the loss of x_0."""
        patch = pipeline.vae_scale_factor * pipeline.transformer.config.patch_size
        return flow_objective(
            pipeline.scheduler,
            options,
            convention=self.time,
            image_tokens=(side // patch) ** 2,
            weighting_scheme="logit_normal",
            preconditioned=True,
        )

    @torch.no_grad()
    def encode_text(self, pipeline: Any, captions: list[str]) -> Conditioning:
        """`prompt_embeds` (B, L, D) of CLIP and T5, `pooled_prompt_embeds` (B, P)."""
        encoded = pipeline.encode_prompt(
            captions, None, None, device=pipeline.device, do_classifier_free_guidance=False
        )
        return {"prompt_embeds": encoded[0].cpu(), "pooled_prompt_embeds": encoded[2].cpu()}

    def predict(
        self, denoiser: Any, x_t: Tensor, time: Tensor, conditioning: Conditioning, guidance: float | None
    ) -> Tensor:
        return denoiser(
            hidden_states=x_t,
            timestep=time,
            encoder_hidden_states=conditioning["prompt_embeds"],
            pooled_projections=conditioning["pooled_prompt_embeds"],
            return_dict=False,
        )[0]

    def sample_arguments(self, conditioning: Conditioning, empty: Conditioning, side: int) -> dict[str, Any]:
        return super().sample_arguments(conditioning, empty, side) | {"height": side, "width": side}

    def empty_inputs(self, config: Any, *, side: int, batch: int, text_tokens: int) -> dict[str, Any]:
        return {
            "hidden_states": empty(batch, config.in_channels, side, side),
            "encoder_hidden_states": empty(batch, text_tokens, config.joint_attention_dim),
            "pooled_projections": empty(batch, config.pooled_projection_dim),
        }


FAMILY = StableDiffusion3()
