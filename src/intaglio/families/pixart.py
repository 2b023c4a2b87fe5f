"""PixArt-alpha and -Sigma: a transformer told T5's text, DDPM, with a variance that is predicted and not trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from intaglio.diffusion.ddpm import ddpm_objective
from intaglio.diffusion.objective import Objective, ObjectiveOptions
from intaglio.diffusion.time import Steps
from intaglio.families.base import Conditioning, Family, empty
from intaglio.families.shape import Shape


class PixArt(Family):
    name = "pixart"
    pipelines = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
    denoisers = ("PixArtTransformer2DModel",)
    keep_float = ("pos_embed", "adaln_single", "caption_projection", "proj_out")
    time = Steps(1000)
    text_tokens = 120
    shapes = (
        Shape(
            "pixart",
            "PixArtTransformer2DModel",
            {
                "sample_size": 64,
                "num_embeds_ada_norm": 1000,
                "caption_channels": 4096,
                "use_additional_conditions": False,
            },
            512,
            text_tokens=120,
        ),
    )

    def side_multiple(self, config: Any) -> int:
        return config["patch_size"]

    def objective(self, pipeline: Any, options: ObjectiveOptions, side: int) -> Objective:
        return ddpm_objective(pipeline.scheduler, options)

    @torch.no_grad()
    def encode_text(self, pipeline: Any, captions: list[str]) -> Conditioning:
        """`prompt_embeds` (B, L, D) and `prompt_attention_mask` (B, L)."""
        embeds, mask, _, _ = pipeline.encode_prompt(captions, False, device=pipeline.device)
        return {"prompt_embeds": embeds.cpu(), "prompt_attention_mask": mask.cpu()}

    def image_conditioning(
        self, original_size: tuple[int, int], crop_top_left: tuple[int, int], side: int
    ) -> dict[str, list[float]]:
        """Sides and aspect ratio of what is drawn, which the alpha model at 1,024 pixels is told."""
        return {"resolution": [float(side), float(side)], "aspect_ratio": [1.0]}

    def predict(
        self, denoiser: Any, x_t: Tensor, time: Tensor, conditioning: Conditioning, guidance: float | None
    ) -> Tensor:
        model = getattr(denoiser, "module", denoiser)
        told: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
        if model.use_additional_conditions:
            told = {name: conditioning[name] for name in told}
        predicted = denoiser(
            x_t,
            encoder_hidden_states=conditioning["prompt_embeds"],
            encoder_attention_mask=conditioning["prompt_attention_mask"],
            timestep=time,
            added_cond_kwargs=told,
            return_dict=False,
        )[0]
        return predicted[:, : x_t.shape[1]]

    def sample_arguments(self, conditioning: Conditioning, empty: Conditioning, side: int) -> dict[str, Any]:
        return super().sample_arguments(conditioning, empty, side) | {
            "prompt": None,
            "negative_prompt": None,
            "height": side,
            "width": side,
            "use_resolution_binning": False,
        }

    def empty_inputs(self, config: Any, *, side: int, batch: int, text_tokens: int) -> dict[str, Any]:
        extra = {"resolution": empty(batch, 2), "aspect_ratio": empty(batch, 1)}
        return {
            "hidden_states": empty(batch, config.in_channels, side, side),
            "encoder_hidden_states": empty(batch, text_tokens, config.caption_channels),
            "added_cond_kwargs": extra if config.sample_size == 128 else dict.fromkeys(extra),
        }


FAMILY = PixArt()
