"""What model a single file holds, from the names in its header alone. Without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from intaglio.errors import UserError
from intaglio.safetensors_header import SafetensorsHeader, read_safetensors_header

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")
_FAMILIES = (
    ("Stable Diffusion XL", ("conditioner.embedders.1.model.ln_final.weight", "label_emb.0.0.weight")),
    ("Stable Diffusion XL", ("add_embedding.linear_1.weight",)),
    ("FLUX.2", ("double_stream_modulation_img.lin.weight",)),
    ("FLUX.2", ("double_stream_modulation_img.linear.weight",)),
    ("Chroma", ("distilled_guidance_layer.in_proj.weight",)),
    ("FLUX.1", ("double_blocks.0.img_attn.qkv.weight",)),
    ("FLUX.1", ("single_transformer_blocks.0.proj_mlp.weight",)),
    ("Stable Diffusion 3", ("joint_blocks.0.x_block.attn.qkv.weight",)),
    ("Stable Diffusion 3", ("pos_embed.proj.weight", "transformer_blocks.0.attn.add_q_proj.weight")),
    ("Z-Image", ("noise_refiner.0.attention.qkv.weight",)),
    ("Z-Image", ("noise_refiner.0.attention.to_q.weight",)),
    ("Qwen-Image", ("transformer_blocks.0.img_mod.1.weight",)),
    ("Stable Diffusion 1 or 2", ("input_blocks.0.0.weight", "time_embed.0.weight")),
    ("Stable Diffusion 1 or 2", ("down_blocks.0.resnets.0.conv1.weight", "time_embedding.linear_1.weight")),
    ("autoencoder", ("decoder.conv_in.weight", "encoder.conv_in.weight")),
    ("CLIP text encoder", ("text_model.encoder.layers.0.self_attn.q_proj.weight",)),
)
"""Family -> names that only it has, without prefixes; the first that has all of them."""
_PREFIXES = ("", "model.diffusion_model.", "diffusion_model.")
_MARKS = {
    ".comfy_quant": "ComfyUI's quantized layers",
    ".SCB": "bitsandbytes INT8",
    ".quant_state.bitsandbytes__nf4": "bitsandbytes NF4",
    ".quant_state.bitsandbytes__fp4": "bitsandbytes FP4",
    ".weight._data": "optimum-quanto",
    ".qdata": "intaglio",
}


@dataclass(frozen=True)
class SingleFile:
    family: str | None
    stored_as: str
    """Its dtypes, or how it is quantized."""
    tensors: int
    num_bytes: int


def recognize(path: Path) -> SingleFile:
    """
    Raises:
        UserError: a pickle, or a damaged file.
    """
    refuse_pickles(path)
    header = read_safetensors_header(path)
    mark = next((what for end, what in _MARKS.items() if any(k.endswith(end) for k in header.tensors)), None)
    dtypes = Counter[str]()
    for entry in header.tensors.values():
        dtypes[entry.dtype] += entry.num_bytes
    stored = " and ".join(dtype for dtype, _ in dtypes.most_common(2))
    return SingleFile(family_of(header.tensors), mark or stored, len(header.tensors), sum(dtypes.values()))


def family_of(names: Collection[str]) -> str | None:
    """The family whose names these are."""
    for family, marks in _FAMILIES:
        if any(all(_has(names, prefix, mark) for mark in marks) for prefix in _PREFIXES):
            return family
    return None


def refuse_pickles(path: Path) -> None:
    """
    Raises:
        UserError: a file that runs code when it is opened.
    """
    if path.suffix.lower() in PICKLES:
        raise UserError(
            f"{path}: a pickle can run any code when it is opened, so it is not read; expected .safetensors. The "
            "program that made it can save it so, and most models are offered so"
        )


def _has(names: Collection[str], prefix: str, mark: str) -> bool:
    return prefix + mark in names or mark in names


def meta_tensors(header: SafetensorsHeader) -> dict[str, object]:
    """Names with shapes and no values, for libraries that guess from them."""
    import torch

    return {name: torch.empty(entry.shape, device="meta") for name, entry in header.tensors.items()}
