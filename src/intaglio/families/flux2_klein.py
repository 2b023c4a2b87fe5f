"""FLUX.2 klein: patched latents normalized by the autoencoder's batch statistics, Qwen3's text, no pooled one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from intaglio.diffusion.flow import flow_objective
from intaglio.diffusion.objective import Objective, ObjectiveOptions
from intaglio.diffusion.time import Scaled
from intaglio.errors import UserError
from intaglio.families.base import Conditioning, Family, empty
from intaglio.families.shape import Shape

KLEIN_4B = {
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "joint_attention_dim": 7680,
    "guidance_embeds": False,
}


class Flux2Klein(Family):
    name = "flux2-klein"
    pipelines = ("Flux2KleinPipeline",)
    denoisers = ("Flux2Transformer2DModel",)
    attention_targets = ("to_q", "to_k", "to_v", "to_out.0", "to_qkv_mlp_proj", "attn.to_out")
    keep_float = ("x_embedder", "context_embedder", "time_guidance_embed", "norm_out", "proj_out")
    time = Scaled(1)
    text_tokens = 512
    shapes = (
        Shape("flux2-klein-4b", "Flux2Transformer2DModel", KLEIN_4B, 1024, pixels_per_latent=16, text_tokens=512),
        Shape(
            "flux2-klein-9b",
            "Flux2Transformer2DModel",
            KLEIN_4B
            | {"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 12288},
            1024,
            pixels_per_latent=16,
            text_tokens=512,
        ),
    )

    def resolution(self, pipeline: Any) -> int:
        return pipeline.default_sample_size * pipeline.vae_scale_factor

    def check_side(self, pipeline: Any, side: int) -> None:
        multiple = 2 * pipeline.vae_scale_factor
        if side % multiple:
            raise UserError(f"resolution {side}: FLUX.2 takes sides of a multiple of {multiple} pixels")

    def objective(self, pipeline: Any, options: ObjectiveOptions, side: int) -> Objective:
        """The transformer in use must not be the distilled one: it has no time that training could say."""
        if pipeline.config.is_distilled:
            raise UserError(
                "this FLUX.2 klein is distilled to a few steps, which training would undo; train on its base "
                "(FLUX.2-klein-base-4B or -9B), and sample with the adapter on either"
            )
        return flow_objective(
            pipeline.scheduler,
            options,
            convention=self.time,
            image_tokens=(side // (2 * pipeline.vae_scale_factor)) ** 2,
        )

    @torch.no_grad()
    def encode_text(self, pipeline: Any, captions: list[str]) -> Conditioning:
        """`prompt_embeds` (B, 512, D): three layers of Qwen3 beside each other. Padding is attended to, as in sampling."""
        embeds, _ = pipeline.encode_prompt(captions, device=pipeline.device)
        return {"prompt_embeds": embeds.cpu()}

    def encode_images(self, pipeline: Any, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """The mode alone: nothing is drawn from this autoencoder."""
        parameter = next(pipeline.vae.parameters())
        with torch.no_grad():
            posterior = pipeline.vae.encode(pixels.to(parameter.device, parameter.dtype)).latent_dist
        return posterior.mode(), None

    def normalize(self, pipeline: Any, latent: Tensor) -> Tensor:
        """(C, h, w) -> (4 C, h / 2, w / 2) of zero mean and unit variance by the batch statistics."""
        bn = pipeline.vae.bn
        mean = bn.running_mean.to(latent.device, latent.dtype)[:, None, None]
        deviation = torch.sqrt(bn.running_var + pipeline.vae.config.batch_norm_eps)
        return (patches(latent[None])[0] - mean) / deviation.to(latent.device, latent.dtype)[:, None, None]

    def predict(
        self, denoiser: Any, x_t: Tensor, time: Tensor, conditioning: Conditioning, guidance: float | None
    ) -> Tensor:
        batch, _, height, width = x_t.shape
        text = conditioning["prompt_embeds"]
        tokens = denoiser(
            hidden_states=x_t.flatten(2).transpose(1, 2),
            timestep=time,
            guidance=None,
            encoder_hidden_states=text,
            txt_ids=ids(1, 1, text.shape[1]).expand(batch, -1, -1).to(x_t.device),
            img_ids=ids(height, width, 1).expand(batch, -1, -1).to(x_t.device),
            return_dict=False,
        )[0]
        return tokens.transpose(1, 2).reshape(x_t.shape)

    def sample_arguments(self, conditioning: Conditioning, empty: Conditioning, side: int) -> dict[str, Any]:
        return super().sample_arguments(conditioning, empty, side) | {"height": side, "width": side}

    def call_arguments(self, negative_prompt: list[str] | None, guidance_scale: float | None) -> dict[str, Any]:
        if negative_prompt is not None:
            raise UserError("FLUX.2 klein takes no negative prompt: its pipeline has no argument for one")
        return super().call_arguments(None, guidance_scale)

    def empty_inputs(self, config: Any, *, side: int, batch: int, text_tokens: int) -> dict[str, Any]:
        found = {
            "hidden_states": empty(batch, side * side, config.in_channels),
            "encoder_hidden_states": empty(batch, text_tokens, config.joint_attention_dim),
            "img_ids": empty(side * side, 4),
            "txt_ids": empty(text_tokens, 4),
        }
        return found | ({"guidance": empty(batch)} if config.guidance_embeds else {"guidance": None})


def patches(latents: Tensor) -> Tensor:
    """(B, C, h, w) of even sides -> (B, 4 C, h / 2, w / 2)."""
    batch, channels, height, width = latents.shape
    cut = latents.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
    return cut.reshape(batch, 4 * channels, height // 2, width // 2)


def ids(height: int, width: int, length: int) -> Tensor:
    """(0, row, column, place) of every token, (height * width * length, 4)."""
    return torch.cartesian_prod(torch.arange(1), torch.arange(height), torch.arange(width), torch.arange(length))


FAMILY = Flux2Klein()
