"""Z-Image: the names of its released code, in which q, k and v are one weight (ComfyUI `comfy/utils.py`,
z_image_to_diffusers)."""

from __future__ import annotations

from intaglio.adapters.names import NameMap

_TABLE: dict[str | tuple[str, ...], str] = {}
for _block in ("layers.{}", "context_refiner.{}", "noise_refiner.{}"):
    _TABLE[tuple(f"{_block}.attention.to_{p}" for p in "qkv")] = f"{_block}.attention.qkv"
    _TABLE[f"{_block}.attention.to_out.0"] = f"{_block}.attention.out"
    for _layer in ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "adaLN_modulation.0"):
        _TABLE[f"{_block}.{_layer}"] = f"{_block}.{_layer}"
_TABLE |= {
    "all_final_layer.2-1.linear": "final_layer.linear",
    "all_final_layer.2-1.adaLN_modulation.1": "final_layer.adaLN_modulation.1",
    "all_x_embedder.2-1": "x_embedder",
    "cap_embedder.1": "cap_embedder.1",
    "t_embedder.mlp.0": "t_embedder.mlp.0",
    "t_embedder.mlp.2": "t_embedder.mlp.2",
}

Z_IMAGE = NameMap("z-image", "z_image", "Z-Image", _TABLE)
