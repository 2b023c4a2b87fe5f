"""Stable Diffusion 3 and 3.5: the names of Stability AI's code.

Source: ComfyUI `comfy/utils.py` (mmdit_to_diffusers). `norm1_context.linear` is left out: in the last block its scale
and shift lie the other way round.
"""

from __future__ import annotations

from intaglio.adapters.names import NameMap

SD3 = NameMap(
    "sd3",
    "sd3",
    "stable-diffusion-v3",
    {
        tuple(f"transformer_blocks.{{}}.attn.to_{p}" for p in "qkv"): "joint_blocks.{}.x_block.attn.qkv",
        tuple(f"transformer_blocks.{{}}.attn2.to_{p}" for p in "qkv"): "joint_blocks.{}.x_block.attn2.qkv",
        tuple(f"transformer_blocks.{{}}.attn.add_{p}_proj" for p in "qkv"): "joint_blocks.{}.context_block.attn.qkv",
        "transformer_blocks.{}.attn.to_out.0": "joint_blocks.{}.x_block.attn.proj",
        "transformer_blocks.{}.attn2.to_out.0": "joint_blocks.{}.x_block.attn2.proj",
        "transformer_blocks.{}.attn.to_add_out": "joint_blocks.{}.context_block.attn.proj",
        "transformer_blocks.{}.ff.net.0.proj": "joint_blocks.{}.x_block.mlp.fc1",
        "transformer_blocks.{}.ff.net.2": "joint_blocks.{}.x_block.mlp.fc2",
        "transformer_blocks.{}.ff_context.net.0.proj": "joint_blocks.{}.context_block.mlp.fc1",
        "transformer_blocks.{}.ff_context.net.2": "joint_blocks.{}.context_block.mlp.fc2",
        "transformer_blocks.{}.norm1.linear": "joint_blocks.{}.x_block.adaLN_modulation.1",
        "context_embedder": "context_embedder",
        "proj_out": "final_layer.linear",
        "pos_embed.proj": "x_embedder.proj",
        "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
        "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    },
)
