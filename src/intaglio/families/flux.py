"""FLUX.1: packed latents, positions as ids, a pooled text, and in the dev model a guidance that it is told."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from intaglio.diffusion.flow import flow_objective
from intaglio.diffusion.objective import Objective, ObjectiveOptions
from intaglio.diffusion.time import Scaled
from intaglio.families.base import Conditioning, Family, empty
from intaglio.families.packing import pack, unpack
from intaglio.families.shape import Shape


class Flux(Family):
    name = "flux"
    pipelines = ("FluxPipeline",)
    single_files = dict.fromkeys(("flux-dev", "flux-schnell"), "FluxPipeline")
    denoisers = ("FluxTransformer2DModel",)
    attention_targets = (
        *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
        *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
        *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
    )
    keep_float = ("x_embedder", "time_text_embed", "context_embedder", "norm_out", "proj_out")
    time = Scaled(1)
    text_tokens = 512
    shapes = (Shape("flux", "FluxTransformer2DModel", {"guidance_embeds": True}, 1024, text_tokens=512),)
    guidance = 1.0
    """Told while training: another one is trained in (black-forest-labs/flux issue 79)."""

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
        """`prompt_embeds` (B, 512, D) of T5, `pooled_prompt_embeds` (B, P) of CLIP."""
        prompt_embeds, pooled, _ = pipeline.encode_prompt(captions, None, device=pipeline.device)
        return {"prompt_embeds": prompt_embeds.cpu(), "pooled_prompt_embeds": pooled.cpu()}

    def predict(
        self, denoiser: Any, x_t: Tensor, time: Tensor, conditioning: Conditioning, guidance: float | None
    ) -> Tensor:
        height, width = x_t.shape[-2:]
        text = conditioning["prompt_embeds"]
        told = None
        if inner(denoiser).config.guidance_embeds:
            told = torch.full((len(x_t),), self.guidance if guidance is None else guidance, device=x_t.device)
        tokens = denoiser(
            hidden_states=pack(x_t),
            timestep=time,
            guidance=told,
            pooled_projections=conditioning["pooled_prompt_embeds"],
            encoder_hidden_states=text,
            txt_ids=torch.zeros(text.shape[1], 3, device=x_t.device, dtype=x_t.dtype),
            img_ids=positions(height // 2, width // 2, x_t),
            return_dict=False,
        )[0]
        return unpack(tokens, height, width)

    def sample_arguments(self, conditioning: Conditioning, empty: Conditioning, side: int) -> dict[str, Any]:
        return {**conditioning, "height": side, "width": side}

    def empty_inputs(self, config: Any, *, side: int, batch: int, text_tokens: int) -> dict[str, Any]:
        tokens = (side // 2) ** 2
        found = {
            "hidden_states": empty(batch, tokens, config.in_channels),
            "encoder_hidden_states": empty(batch, text_tokens, config.joint_attention_dim),
            "pooled_projections": empty(batch, config.pooled_projection_dim),
            "img_ids": empty(tokens, 3),
            "txt_ids": empty(text_tokens, 3),
        }
        return found | ({"guidance": empty(batch)} if config.guidance_embeds else {})


def positions(height: int, width: int, like: Tensor) -> Tensor:
    """(0, row, column) of every token, (height * width, 3)."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    ids = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)
    return ids.to(like.device, like.dtype)


def inner(denoiser: Any) -> Any:
    """The model inside of what distributes it."""
    return getattr(denoiser, "module", denoiser)


FAMILY = Flux()
