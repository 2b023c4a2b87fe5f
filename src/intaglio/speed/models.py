"""Denoisers of known shapes with random weights, and inputs to call them with: speed needs no trained ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from intaglio.families.shape import Shape

SMALL = "small"
"""A U-Net for a quick look; the other names are those of the families' published shapes."""


def shape_named(name: str) -> Shape:
    """Raises UnknownChoice."""
    from intaglio.checkpoints.shapes import shape_named as published
    from intaglio.families.shape import Shape

    if name == SMALL:
        blocks = {"block_out_channels": (64, 128, 256, 256), "attention_head_dim": 8}
        return Shape(SMALL, "UNet2DConditionModel", {"sample_size": 32, "cross_attention_dim": 256, **blocks}, 256)
    return published(name)


def new_denoiser(shape: Shape, dtype: str) -> nn.Module:
    """The denoiser with random weights in `dtype`, made at its size: never larger on the way."""
    import torch

    from intaglio.checkpoints.shapes import empty_denoiser

    torch.manual_seed(0)
    model = empty_denoiser(shape).to(getattr(torch, dtype)).to_empty(device="cpu")
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.fill_(1.0) if "norm" in name and name.endswith("weight") else p.normal_(std=0.02)
    return model


def random_inputs(model: nn.Module, shape: Shape, resolution: int, batch: int, dtype: str) -> dict[str, Any]:
    """Keyword arguments of one call, on the CPU: timesteps of 0 to 999, the rest normal.

    Raises:
        UserError: the shape does not take images of that side.
    """
    import torch

    from intaglio.checkpoints.shapes import empty_inputs

    inputs = empty_inputs(model, shape, resolution, batch)
    inputs["timestep"] = torch.randint(1000, (batch,))
    return {name: _random(value, getattr(torch, dtype)) for name, value in inputs.items()}


def _random(value: Any, dtype: Any) -> Any:
    import torch

    if isinstance(value, dict):
        return {name: _random(inner, dtype) for name, inner in value.items()}
    if isinstance(value, torch.Tensor) and value.is_meta:
        return torch.randn(value.shape, dtype=dtype)
    return value
