"""Small denoisers that have every layer type of the real ones."""

from __future__ import annotations

import torch


def make_unet(seed: int = 0, **changes):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    options = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 24,
        "attention_head_dim": 8,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**{**options, **changes})
