"""What a Stable Diffusion denoiser is told beside the noisy latent: text, and for XL size and crop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from intaglio.errors import UserError

SUPPORTED = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")


def check_pipeline(pipeline_class: str | None, denoiser_class: str | None) -> None:
    """Refuse what `train` does not cover yet. None: a single file, known only once it is loaded."""
    if pipeline_class is not None and pipeline_class not in SUPPORTED:
        raise UserError(
            f"{pipeline_class} ({denoiser_class}) cannot be trained by this command yet; it trains "
            f"{' and '.join(SUPPORTED)}. From Python, intaglio.attach works on any diffusers denoiser"
        )


def encode_text(pipeline: Any, captions: list[str]) -> dict[str, Tensor]:
    """`prompt_embeds` (B, L, D), and for XL `pooled_prompt_embeds` (B, P)."""
    with torch.no_grad():
        encoded = pipeline.encode_prompt(
            prompt=captions,
            device=pipeline.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
    if is_xl(pipeline):
        return {"prompt_embeds": encoded[0].cpu(), "pooled_prompt_embeds": encoded[2].cpu()}
    return {"prompt_embeds": encoded[0].cpu()}


def is_xl(pipeline: Any) -> bool:
    return type(pipeline).__name__ == "StableDiffusionXLPipeline"


def call_denoiser(
    denoiser: Any, noisy: Tensor, timesteps: Tensor, text: dict[str, Tensor], time_ids: Tensor | None
) -> Tensor:
    """The prediction (B, C, h, w). `time_ids` (B, 6): original size, crop, target size, for XL."""
    extra: dict[str, Any] = {}
    if "pooled_prompt_embeds" in text:
        extra["added_cond_kwargs"] = {"text_embeds": text["pooled_prompt_embeds"], "time_ids": time_ids}
    return denoiser(noisy, timesteps, encoder_hidden_states=text["prompt_embeds"], return_dict=False, **extra)[0]


def encode_images(vae: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) in [-1, 1] -> mean and log-variance of the latents, unscaled."""
    parameter = next(vae.parameters())
    with torch.no_grad():
        posterior = vae.encode(pixels.to(parameter.device, parameter.dtype)).latent_dist
    return posterior.mean, posterior.logvar


def scale_latents(vae: Any, latents: Tensor) -> Tensor:
    """To the unit variance that the denoiser works in."""
    return (latents - (getattr(vae.config, "shift_factor", None) or 0.0)) * vae.config.scaling_factor
