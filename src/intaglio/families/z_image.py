"""Z-Image: one stream of image and text, time that grows towards the data, a prediction of the other sign."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from intaglio.diffusion.flow import flow_objective
from intaglio.diffusion.objective import Objective, ObjectiveOptions
from intaglio.diffusion.time import Reversed
from intaglio.families.base import Conditioning, Family, empty, masked_rows
from intaglio.families.shape import Shape


class ZImage(Family):
    name = "z-image"
    pipelines = ("ZImagePipeline",)
    denoisers = ("ZImageTransformer2DModel",)
    keep_float = ("all_x_embedder", "cap_embedder", "t_embedder", "all_final_layer")
    time = Reversed()
    shared_layers = ("cap_embedder",)
    text_tokens = 512
    shapes = (Shape("z-image", "ZImageTransformer2DModel", {}, 1024, text_tokens=512),)

    def side_multiple(self, config: Any) -> int:
        return config["all_patch_size"][0]

    def resolution(self, pipeline: Any) -> int:
        return 1024 * pipeline.vae_scale_factor // 8

    def objective(self, pipeline: Any, options: ObjectiveOptions, side: int) -> Objective:
        return flow_objective(
            pipeline.scheduler,
            options,
            convention=self.time,
            image_tokens=(side // (2 * pipeline.vae_scale_factor)) ** 2,
        )

    @torch.no_grad()
    def encode_text(self, pipeline: Any, captions: list[str]) -> Conditioning:
        """`prompt_embeds` (B, L, D), and `prompt_mask` (B, L) of the tokens that are there: each caption has its own
        length, and the denoiser is given no padding."""
        found, _ = pipeline.encode_prompt(list(captions), device=pipeline.device, do_classifier_free_guidance=False)
        lengths = [len(embeds) for embeds in found]
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        return {"prompt_embeds": torch.nn.utils.rnn.pad_sequence(found, batch_first=True).cpu(), "prompt_mask": mask}

    def predict(
        self, denoiser: Any, x_t: Tensor, time: Tensor, conditioning: Conditioning, guidance: float | None
    ) -> Tensor:
        images = [image[:, None] for image in x_t]  # (C, 1, h, w): one frame
        found = denoiser(images, time, _rows(conditioning), return_dict=False)[0]
        return -torch.stack(list(found)).squeeze(2)

    def sample_arguments(self, conditioning: Conditioning, empty: Conditioning, side: int) -> dict[str, Any]:
        return {
            "prompt_embeds": _rows(conditioning),
            "negative_prompt_embeds": _rows(empty),
            "height": side,
            "width": side,
        }

    def empty_inputs(self, config: Any, *, side: int, batch: int, text_tokens: int) -> dict[str, Any]:
        return {
            "x": [empty(config.in_channels, 1, side, side) for _ in range(batch)],
            "cap_feats": [empty(text_tokens, config.cap_feat_dim) for _ in range(batch)],
        }


def _rows(conditioning: Conditioning) -> list[Tensor]:
    return masked_rows(conditioning["prompt_embeds"], conditioning["prompt_mask"])


FAMILY = ZImage()
