"""Small denoisers that have every layer type of the real ones."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
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


@pytest.fixture
def unet():
    return make_unet()


@pytest.fixture
def batch():
    """sample (3, 4, 8, 8), timesteps (3,) in three of four intervals, text (3, 7, 24)."""
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(3, 4, 8, 8, generator=generator)
    text = torch.randn(3, 7, 24, generator=generator)
    return sample, torch.tensor([10, 300, 990]), text
