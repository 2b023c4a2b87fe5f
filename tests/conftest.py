"""Fixtures of all tests."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of each worker: two that spin on two cores slow each other tenfold
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch

from tiny_models import make_unet


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
