"""Krea 2: one stream, text from twelve layers of Qwen3-VL under a mask, Qwen-Image's autoencoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from intaglio.diffusion.flow import flow_objective
from intaglio.diffusion.objective import Objective, ObjectiveOptions
from intaglio.diffusion.time import Scaled
from intaglio.errors import UserError
from intaglio.families import qwen_vae
from intaglio.families.base import Conditioning, Family, empty
from intaglio.families.packing import pack, unpack
from intaglio.families.shape import Shape


class Krea2(Family):
    name = "krea2"
    pipelines = ("Krea2Pipeline",)
    denoisers = ("Krea2Transformer2DModel",)
    attention_targets = (
        *("to_q", "to_k", "to_v", "to_out.0", "to_gate", "ff.up", "ff.down", "img_in"),
        *("txt_in.linear_1", "txt_in.linear_2", "text_fusion.projector"),
        *("time_embed.linear_1", "time_embed.linear_2", "time_mod_proj", "final_layer.linear"),
    )
    keep_float = ("img_in", "txt_in", "text_fusion.projector", "time_embed", "time_mod_proj", "final_layer")
    time = Scaled(1)
    text_tokens = 512
    shapes = (Shape("krea2", "Krea2Transformer2DModel", {}, 1024, text_tokens=512),)

    def side_multiple(self, config: Any) -> int:
        return 2

    def resolution(self, pipeline: Any) -> int:
        return 1024 * pipeline.vae_scale_factor // 8

    def objective(self, pipeline: Any, options: ObjectiveOptions, side: int) -> Objective:
        if pipeline.config.is_distilled:
            raise UserError("this Krea 2 is distilled to a few steps, which training would undo; train on Krea 2 RAW")
        return flow_objective(
            pipeline.scheduler,
            options,
            convention=self.time,
            image_tokens=(side // (2 * pipeline.vae_scale_factor)) ** 2,
        )

    @torch.no_grad()
    def encode_text(self, pipeline: Any, captions: list[str]) -> Conditioning:
        """`prompt_embeds` (B, 512, layers, D) and `prompt_embeds_mask` (B, 512): the padding lies in the middle."""
        embeds, mask = pipeline.encode_prompt(captions, device=pipeline.device)
        return {"prompt_embeds": embeds.cpu(), "prompt_embeds_mask": mask.cpu()}

    def encode_images(self, pipeline: Any, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        return qwen_vae.encode(pipeline.vae, pixels)

    def normalize(self, pipeline: Any, latent: Tensor) -> Tensor:
        return qwen_vae.normalize(pipeline.vae, latent)

    def predict(
        self, denoiser: Any, x_t: Tensor, time: Tensor, conditioning: Conditioning, guidance: float | None
    ) -> Tensor:
        height, width = x_t.shape[-2:]
        text = conditioning["prompt_embeds"]
        rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
        image_ids = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)
        tokens = denoiser(
            hidden_states=pack(x_t),
            encoder_hidden_states=text,
            timestep=time,
            position_ids=torch.cat([torch.zeros(text.shape[1], 3), image_ids]).to(x_t.device),
            encoder_attention_mask=conditioning["prompt_embeds_mask"],
            return_dict=False,
        )[0]
        return unpack(tokens, height, width)

    def sample_arguments(self, conditioning: Conditioning, empty: Conditioning, side: int) -> dict[str, Any]:
        return super().sample_arguments(conditioning, empty, side) | {"height": side, "width": side}

    def empty_inputs(self, config: Any, *, side: int, batch: int, text_tokens: int) -> dict[str, Any]:
        tokens = (side // 2) ** 2
        return {
            "hidden_states": empty(batch, tokens, config.in_channels),
            "encoder_hidden_states": empty(batch, text_tokens, config.num_text_layers, config.text_hidden_dim),
            "position_ids": empty(text_tokens + tokens, 3),
        }


FAMILY = Krea2()
