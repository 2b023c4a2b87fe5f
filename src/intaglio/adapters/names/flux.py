"""FLUX.1 and FLUX.2: the names of Black Forest Labs' code.

Sources: ComfyUI `comfy/utils.py` (flux_to_diffusers), diffusers `loaders/lora_conversion_utils.py`. The scale and shift
of `norm_out.linear` lie the other way round there: it is left out.
"""

from __future__ import annotations

from intaglio.adapters.names import NameMap

_DOUBLE: dict[str | tuple[str, ...], str] = {
    tuple(f"transformer_blocks.{{}}.attn.to_{p}" for p in "qkv"): "double_blocks.{}.img_attn.qkv",
    tuple(f"transformer_blocks.{{}}.attn.add_{p}_proj" for p in "qkv"): "double_blocks.{}.txt_attn.qkv",
    "transformer_blocks.{}.attn.to_out.0": "double_blocks.{}.img_attn.proj",
    "transformer_blocks.{}.attn.to_add_out": "double_blocks.{}.txt_attn.proj",
}
_ENDS: dict[str | tuple[str, ...], str] = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "proj_out": "final_layer.linear",
}
_LINEAR1 = "single_blocks.{}.linear1"

FLUX = NameMap(
    "flux",
    "flux1",
    "flux-1-dev",
    {
        **_DOUBLE,
        "transformer_blocks.{}.norm1.linear": "double_blocks.{}.img_mod.lin",
        "transformer_blocks.{}.norm1_context.linear": "double_blocks.{}.txt_mod.lin",
        "transformer_blocks.{}.ff.net.0.proj": "double_blocks.{}.img_mlp.0",
        "transformer_blocks.{}.ff.net.2": "double_blocks.{}.img_mlp.2",
        "transformer_blocks.{}.ff_context.net.0.proj": "double_blocks.{}.txt_mlp.0",
        "transformer_blocks.{}.ff_context.net.2": "double_blocks.{}.txt_mlp.2",
        (
            *(f"single_transformer_blocks.{{}}.attn.to_{p}" for p in "qkv"),
            "single_transformer_blocks.{}.proj_mlp",
        ): _LINEAR1,
        "single_transformer_blocks.{}.proj_out": "single_blocks.{}.linear2",
        "single_transformer_blocks.{}.norm.linear": "single_blocks.{}.modulation.lin",
        **_ENDS,
        "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
        "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
        "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
        "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
        "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
        "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    },
    {_LINEAR1: (1, 1, 1, 4)},
)

FLUX2 = NameMap(
    "flux2-klein",
    "flux2",
    "flux-2",
    {
        **_DOUBLE,
        "transformer_blocks.{}.ff.linear_in": "double_blocks.{}.img_mlp.0",
        "transformer_blocks.{}.ff.linear_out": "double_blocks.{}.img_mlp.2",
        "transformer_blocks.{}.ff_context.linear_in": "double_blocks.{}.txt_mlp.0",
        "transformer_blocks.{}.ff_context.linear_out": "double_blocks.{}.txt_mlp.2",
        "single_transformer_blocks.{}.attn.to_qkv_mlp_proj": _LINEAR1,
        "single_transformer_blocks.{}.attn.to_out": "single_blocks.{}.linear2",
        **_ENDS,
        "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
        "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
        "time_guidance_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
        "time_guidance_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
        "single_stream_modulation.linear": "single_stream_modulation.lin",
        "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
        "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
    },
)
