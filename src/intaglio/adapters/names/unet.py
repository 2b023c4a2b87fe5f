"""The U-Net of Stable Diffusion 1, 2 and XL: diffusers' names, with underscores, and those of Stability AI's code.

kohya's scripts train diffusers' U-Net for Stable Diffusion 1 and 2, and their own, with the released names, for XL
(`networks/lora.py`, `library/sdxl_original_unet.py`). ComfyUI reads both (`comfy/utils.py`, unet_to_diffusers).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_TRANSFORMER = (
    *(f"attn{n}.to_{p}" for n in (1, 2) for p in "qkv"),
    "attn1.to_out.0",
    "attn2.to_out.0",
    "ff.net.0.proj",
    "ff.net.2",
)
_RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_OURS = re.compile(
    r"(?:(down|up)_blocks\.(\d{1,3})|(mid)_block)\.(resnets|attentions|downsamplers|upsamplers)\.(\d{1,3})\.(.+)"
)
_NATIVE = re.compile(r"(?:(input|output)_blocks\.(\d{1,3})|(middle)_block)\.(\d{1,3})(?:\.(.+))?")
_XL_UP_BLOCKS_WITH_ATTENTION = (0, 1)


def dotted(underscored: str) -> str | None:
    """Diffusers' or the released name of a layer that reads like this with underscores for dots; None if neither."""
    if underscored in _ENDS_UNDERSCORED:
        return _ENDS_UNDERSCORED[underscored]
    match = _HEAD.fullmatch(underscored)
    if match is None:
        return None
    *numbers, leaf = (part for part in match.groups()[1:] if part is not None)
    head = ".".join([match[1], *numbers])
    block = re.fullmatch(r"transformer_blocks_(\d{1,3})_(.+)", leaf)
    if block is not None:
        inner = _LEAVES.get(block[2])
        return None if inner is None else f"{head}.transformer_blocks.{block[1]}.{inner}"
    inner = _LEAVES.get(leaf)
    return None if inner is None else f"{head}.{inner}"


def to_native(layer: str, layers_per_block: int = 2) -> str | None:
    """The released name of diffusers' `layer` of Stable Diffusion XL."""
    if layer in _ENDS:
        return _ENDS[layer]
    match = _OURS.fullmatch(layer)
    if match is None:
        return None
    direction, block, mid, kind, index, leaf = match.groups()
    leaf = _RESNET.get(leaf) if kind == "resnets" else leaf
    if leaf is None:
        return None
    number = int(index)
    if mid:
        return f"middle_block.{1 if kind == 'attentions' else 2 * number}.{leaf}"
    if direction == "down":
        first = 1 + (layers_per_block + 1) * int(block)
        if kind == "downsamplers":
            return f"input_blocks.{first + layers_per_block}.0.op"
        return f"input_blocks.{first + number}.{int(kind == 'attentions')}.{leaf}"
    first = (layers_per_block + 1) * int(block)
    if kind == "upsamplers":
        place = 1 + int(int(block) in _XL_UP_BLOCKS_WITH_ATTENTION)
        return f"output_blocks.{first + layers_per_block}.{place}.conv"
    return f"output_blocks.{first + number}.{int(kind == 'attentions')}.{leaf}"


def from_native(native: str, layers_per_block: int = 2) -> str | None:
    """Diffusers' name of a released one; None when it is none."""
    if native in _ENDS_NATIVE:
        return _ENDS_NATIVE[native]
    match = _NATIVE.fullmatch(native)
    if match is None or match[5] is None:
        return None
    direction, block, middle, place, leaf = match.groups()
    is_resnet = leaf in _RESNET_NATIVE
    leaf = _RESNET_NATIVE.get(leaf, leaf)
    if middle:
        return f"mid_block.{'resnets' if is_resnet else 'attentions'}.{int(place) // 2}.{leaf}"
    number = int(block) - int(direction == "input")
    if number < 0:
        return None
    outer, inner = divmod(number, layers_per_block + 1)
    side = "down_blocks" if direction == "input" else "up_blocks"
    if leaf == "op":
        return f"{side}.{outer}.downsamplers.0.conv"
    if leaf == "conv":
        return f"{side}.{outer}.upsamplers.0.conv"
    return f"{side}.{outer}.{'resnets' if is_resnet else 'attentions'}.{inner}.{leaf}"


def is_ours(layer: str) -> bool:
    """Whether diffusers' U-Net can have a layer of this name."""
    return layer in _ENDS or _OURS.fullmatch(layer) is not None


def count_layers_per_block(layers: Iterable[str]) -> int:
    """Of a model whose layers these are: the residual blocks of its first down block; 2 where there is none."""
    found = [int(m[1]) + 1 for name in layers if (m := re.match(r"down_blocks\.0\.resnets\.(\d{1,3})\.", name))]
    return max(found, default=2)


def is_xl(inputs: Mapping[str, int]) -> bool:
    """Whether these layers (name -> input channels) are of Stable Diffusion XL: text of 2048 channels, or transformers
    of more than one block."""
    return any(
        ".transformer_blocks.1." in name or (width == 2048 and re.search(r"attn2\.to_[kv]$", name))
        for name, width in inputs.items()
    )


_LEAVES = {
    leaf.replace(".", "_"): leaf
    for leaf in (*_TRANSFORMER, *_RESNET, *_RESNET.values(), "conv", "op", "proj_in", "proj_out")
}
_RESNET_NATIVE = {native: ours for ours, native in _RESNET.items()}
_ENDS_NATIVE = {native: ours for ours, native in _ENDS.items()}
_ENDS_UNDERSCORED = {name.replace(".", "_"): name for name in (*_ENDS, *_ENDS.values())}
_HEAD = re.compile(
    r"(down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)_"
    r"(?:(\d{1,3})_)?(?:(resnets|attentions|downsamplers|upsamplers)_)?(?:(\d{1,3})_)?(\D.+)"
)
