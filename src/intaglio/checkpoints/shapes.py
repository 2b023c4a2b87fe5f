"""Denoisers without weights: built on the meta device from a configuration, with inputs to call them with.

For what depends on shapes alone, such as the trace of a training step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from intaglio.checkpoints.inspect import inspect_model, read_component_config
from intaglio.checkpoints.skeleton import quantize_empty
from intaglio.errors import UnknownChoice, UserError
from intaglio.layers.model import KEEP_FLOAT


@dataclass(frozen=True)
class Shape:
    """A denoiser's class and configuration, the default side of its images, and pixels a latent pixel."""

    name: str
    denoiser_class: str
    config: Mapping[str, Any]
    resolution: int
    pixels_per_latent: int = 8
    format: str | None = None
    """Of a folder that is quantized already."""
    text_tokens: int = 77


SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape(
            "sd15",
            "UNet2DConditionModel",
            {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
            512,
        ),
        Shape(
            "sdxl",
            "UNet2DConditionModel",
            {
                "sample_size": 128,
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                "block_out_channels": (320, 640, 1280),
                "transformer_layers_per_block": (1, 2, 10),
                "attention_head_dim": (5, 10, 20),
                "cross_attention_dim": 2048,
                "use_linear_projection": True,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": 2816,
            },
            1024,
        ),
        Shape(
            "sd3",
            "SD3Transformer2DModel",
            {
                "sample_size": 128,
                "num_layers": 24,
                "num_attention_heads": 24,
                "caption_projection_dim": 1536,
                "pos_embed_max_size": 192,
            },
            1024,
            text_tokens=333,  # 77 of CLIP and 256 of T5
        ),
        Shape("flux", "FluxTransformer2DModel", {"guidance_embeds": True}, 1024, text_tokens=512),
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
}
"""Stable Diffusion 1.x and XL, 3 medium, FLUX.1-dev, PixArt-alpha: the configurations of the released checkpoints."""


def shape_named(name: str) -> Shape:
    if name not in SHAPES:
        raise UnknownChoice("shapes", name, SHAPES)
    return SHAPES[name]


def shape_of(name_or_path: str, revision: str | None = None) -> Shape:
    """The shape of a pipeline, from its JSON files alone.

    Raises:
        UserError: no such pipeline, or a single file, which holds no configuration.
    """
    info = inspect_model(name_or_path, revision=revision)
    if info.denoiser is None or info.denoiser_class is None:
        raise UserError(
            f"{info.source}: a single file holds no configuration; give the folder or Hub id of its pipeline, or a "
            f"known shape: {', '.join(SHAPES)}"
        )
    config = read_component_config(info, info.denoiser, revision)
    vae = read_component_config(info, "vae", revision)
    pixels = 2 ** (len(vae.get("block_out_channels", (0,) * 4)) - 1)
    side = config.get("sample_size") or 128
    known = next((s.text_tokens for s in SHAPES.values() if s.denoiser_class == info.denoiser_class), 77)
    return Shape(info.source, info.denoiser_class, config, int(side) * pixels, pixels, info.format, known)


def empty_denoiser(shape: Shape, format: str | None = None, keep_float: Sequence[str] = KEEP_FLOAT) -> nn.Module:
    """The denoiser on the meta device; quantized to `format`, or to the format of a quantized folder."""
    import diffusers

    kind = getattr(diffusers, shape.denoiser_class, None)
    if kind is None:
        raise UserError(f"this diffusers ({diffusers.__version__}) has no {shape.denoiser_class}; upgrade diffusers")
    config = {k: v for k, v in shape.config.items() if k != "quantization_config"}
    with torch.device("meta"):
        model = kind.from_config(config)
    format = shape.format or format
    if format is not None:
        quantize_empty(model, format, keep_float)
    return model


def empty_inputs(model: nn.Module, shape: Shape, resolution: int, batch_size: int) -> dict[str, Any]:
    """Keyword arguments for one call of the denoiser, of meta tensors.

    Args:
        resolution: side of the images in pixels, a multiple of what the model cuts them into.

    Raises:
        UserError: a denoiser that takes other inputs than the known ones.
    """
    inputs = _INPUTS.get(shape.denoiser_class)
    if inputs is None:
        raise UserError(
            f"{shape.denoiser_class} takes inputs that are not known here; known: {', '.join(sorted(_INPUTS))}. From "
            "Python, intaglio.trace.record records any step that you write"
        )
    pixels = shape.pixels_per_latent * int(shape.config.get("patch_size") or 1)
    pixels *= 2 if shape.denoiser_class == "FluxTransformer2DModel" else 1  # its pipeline folds 2 x 2 pixels
    if resolution % pixels:
        raise UserError(f"{shape.name} takes images of a multiple of {pixels} pixels, not {resolution}")
    side = resolution // shape.pixels_per_latent
    config: Any = model.config
    return {"return_dict": False, "timestep": _empty(batch_size)} | inputs(config, shape, side, batch_size)


def _empty(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


def _unet_inputs(config: Any, shape: Shape, side: int, batch: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "sample": _empty(batch, config.in_channels, side, side),
        "encoder_hidden_states": _empty(batch, shape.text_tokens, config.cross_attention_dim),
    }
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        found["added_cond_kwargs"] = {"text_embeds": _empty(batch, pooled), "time_ids": _empty(batch, 6)}
    return found


def _sd3_inputs(config: Any, shape: Shape, side: int, batch: int) -> dict[str, Any]:
    return {
        "hidden_states": _empty(batch, config.in_channels, side, side),
        "encoder_hidden_states": _empty(batch, shape.text_tokens, config.joint_attention_dim),
        "pooled_projections": _empty(batch, config.pooled_projection_dim),
    }


def _flux_inputs(config: Any, shape: Shape, side: int, batch: int) -> dict[str, Any]:
    tokens = (side // 2) ** 2
    found = {
        "hidden_states": _empty(batch, tokens, config.in_channels),
        "encoder_hidden_states": _empty(batch, shape.text_tokens, config.joint_attention_dim),
        "pooled_projections": _empty(batch, config.pooled_projection_dim),
        "img_ids": _empty(tokens, 3),
        "txt_ids": _empty(shape.text_tokens, 3),
    }
    return found | ({"guidance": _empty(batch)} if config.guidance_embeds else {})


def _pixart_inputs(config: Any, shape: Shape, side: int, batch: int) -> dict[str, Any]:
    extra = {"resolution": _empty(batch, 2), "aspect_ratio": _empty(batch, 1)}
    return {
        "hidden_states": _empty(batch, config.in_channels, side, side),
        "encoder_hidden_states": _empty(batch, shape.text_tokens, config.caption_channels),
        "added_cond_kwargs": extra if config.sample_size == 128 else dict.fromkeys(extra),
    }


_INPUTS: dict[str, Callable[[Any, Shape, int, int], dict[str, Any]]] = {
    "UNet2DConditionModel": _unet_inputs,
    "SD3Transformer2DModel": _sd3_inputs,
    "FluxTransformer2DModel": _flux_inputs,
    "PixArtTransformer2DModel": _pixart_inputs,
}
