"""The text encoders (CLIP) in kohya's keys: `lora_te_` or `lora_te1_` is the first, `lora_te2_` the second.

Sources: kohya-ss/sd-scripts `networks/lora.py`, ComfyUI `comfy/lora.py` (model_lora_keys_clip).
"""

from __future__ import annotations

import re

PREFIXES = {"lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2", "lora_te_": "text_encoder"}
_LAYER = re.compile(r"text_model_encoder_layers_(\d{1,3})_(.+)")
_PARTS = {
    part.replace(".", "_"): part
    for part in (*(f"self_attn.{p}_proj" for p in ("q", "k", "v", "out")), "mlp.fc1", "mlp.fc2")
}


def dotted(underscored: str) -> str | None:
    """The layer of the text encoder that reads like this with underscores for dots."""
    if underscored == "text_projection":
        return underscored
    match = _LAYER.fullmatch(underscored)
    if match is None or match[2] not in _PARTS:
        return None
    return f"text_model.encoder.layers.{match[1]}.{_PARTS[match[2]]}"


def key(component: str, layer: str, *, two: bool) -> str | None:
    """The key of a layer; None for an encoder that has no prefix.

    Args:
        two: whether the family has two such encoders.
    """
    if component == "text_encoder":
        return f"lora_te{'1' if two else ''}_{layer.replace('.', '_')}"
    if component == "text_encoder_2" and two:
        return f"lora_te2_{layer.replace('.', '_')}"
    return None
