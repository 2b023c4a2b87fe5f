"""Krea 2: the names of its released code (ComfyUI `comfy/utils.py`, krea2_to_diffusers)."""

from __future__ import annotations

from intaglio.adapters.names import NameMap

_BLOCK = {
    "attn.to_q": "attn.wq",
    "attn.to_k": "attn.wk",
    "attn.to_v": "attn.wv",
    "attn.to_gate": "attn.gate",
    "attn.to_out.0": "attn.wo",
    "ff.gate": "mlp.gate",
    "ff.up": "mlp.up",
    "ff.down": "mlp.down",
}
_HEADS = {
    "transformer_blocks.{}": "blocks.{}",
    "text_fusion.layerwise_blocks.{}": "txtfusion.layerwise_blocks.{}",
    "text_fusion.refiner_blocks.{}": "txtfusion.refiner_blocks.{}",
}
_ENDS = {
    "img_in": "first",
    "time_embed.linear_1": "tmlp.0",
    "time_embed.linear_2": "tmlp.2",
    "time_mod_proj": "tproj.1",
    "txt_in.linear_1": "txtmlp.1",
    "txt_in.linear_2": "txtmlp.3",
    "text_fusion.projector": "txtfusion.projector",
    "final_layer.linear": "last.linear",
}
_BLOCKS = {f"{ours}.{a}": f"{native}.{b}" for ours, native in _HEADS.items() for a, b in _BLOCK.items()}

KREA2 = NameMap("krea2", "krea2", "krea-2", {**_BLOCKS, **_ENDS})
