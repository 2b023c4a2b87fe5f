"""Qwen-Image: ComfyUI and musubi keep diffusers' names (ComfyUI `comfy/lora.py`, class QwenImage)."""

from __future__ import annotations

from intaglio.adapters.names import NameMap

_BLOCK = (
    *(f"attn.to_{p}" for p in "qkv"),
    *(f"attn.add_{p}_proj" for p in "qkv"),
    "attn.to_out.0",
    "attn.to_add_out",
    "img_mlp.net.0.proj",
    "img_mlp.net.2",
    "txt_mlp.net.0.proj",
    "txt_mlp.net.2",
    "img_mod.1",
    "txt_mod.1",
)
_ENDS = (
    "img_in",
    "txt_in",
    "proj_out",
    "norm_out.linear",
    "time_text_embed.timestep_embedder.linear_1",
    "time_text_embed.timestep_embedder.linear_2",
)

QWEN_IMAGE = NameMap(
    "qwen-image",
    "qwen_image",
    "Qwen-Image",
    {name: name for name in (*(f"transformer_blocks.{{}}.{layer}" for layer in _BLOCK), *_ENDS)},
)
