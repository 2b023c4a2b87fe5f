"""What Stable Diffusion's U-Nets share: their layers, their steps and their inputs."""

from __future__ import annotations

from typing import Any

from intaglio.diffusion.ddpm import ddpm_objective
from intaglio.diffusion.objective import Objective, ObjectiveOptions
from intaglio.diffusion.time import Steps
from intaglio.families.base import Family, empty


class UNetFamily(Family):
    denoisers = ("UNet2DConditionModel", "UNet2DModel")
    component = "unet"
    keep_float = ("conv_in", "conv_out", "time_embedding", "add_embedding", "class_embedding", "time_proj")
    time = Steps(1000)

    def objective(self, pipeline: Any, options: ObjectiveOptions, side: int) -> Objective:
        return ddpm_objective(pipeline.scheduler, options)

    def empty_inputs(self, config: Any, *, side: int, batch: int, text_tokens: int) -> dict[str, Any]:
        found: dict[str, Any] = {
            "sample": empty(batch, config.in_channels, side, side),
            "encoder_hidden_states": empty(batch, text_tokens, config.cross_attention_dim),
        }
        if config.addition_embed_type == "text_time":
            pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            found["added_cond_kwargs"] = {"text_embeds": empty(batch, pooled), "time_ids": empty(batch, 6)}
        return found
