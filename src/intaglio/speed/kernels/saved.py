"""Bytes saved for backward, by kind of layer and method. Not a time, but what a step's memory is made of.

One forward pass of the U-Net of Stable Diffusion 1.5, 256 px, batch 1, counted by hooks on what autograd saves: bytes
of distinct storages, weights left out. What two layers save counts for the one that saved it first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from intaglio.checkpoints.shapes import empty_denoiser
from intaglio.runtime.memory import return_memory
from intaglio.speed.harness import MIB, Row
from intaglio.speed.models import new_denoiser, random_inputs, shape_named
from intaglio.speed.render import Column, key
from intaglio.speed.suite import Suite
from intaglio.speed.variants import VARIANTS

METHODS = ("peft-bf16", "qlora-int4", "int8_lora-int4", "peqa-int4", "tuneqdm-int4")
MODEL, RESOLUTION = "sd15", 256
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
KINDS = (
    "Linear, q k v out",
    "other Linear",
    "Conv2d",
    "GroupNorm + SiLU",
    "LayerNorm",
    "GEGLU",
    "attention",
    "embeddings, sums, loss",
)


def kind_of(name: str, module: nn.Module) -> str | None:
    """A kind for the modules that have one; what lies between belongs to the nearest of these above it."""
    if isinstance(module, nn.Linear):
        return KINDS[0] if name.endswith(TARGETS) else KINDS[1]
    for types, kind in (
        (nn.Conv2d, "Conv2d"),
        ((nn.GroupNorm, nn.SiLU), "GroupNorm + SiLU"),
        (nn.LayerNorm, "LayerNorm"),
        (GEGLU, "GEGLU"),
        (Attention, "attention"),
    ):
        if isinstance(module, types):
            return kind
    return None


def saved_by_kind(unet: nn.Module, inputs: dict[str, Any], kinds: dict[str, str]) -> Counter[str]:
    """Run forward once. `kinds` names the modules of the plain U-Net; a name below one of them goes by it."""
    own = {t.untyped_storage().data_ptr() for t in (*unet.parameters(), *unet.buffers())}
    saved: dict[int, tuple[int, str, Tensor]] = {}
    stack = [KINDS[-1]]

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:  # the tensor is held, so that no later one takes its place
            saved.setdefault(storage.data_ptr(), (storage.nbytes(), stack[-1], tensor.detach()))
        return tensor

    def enter(name: str) -> Any:
        return lambda *_: stack.append(kinds.get(name, stack[-1]))

    handles = []
    for name, module in unet.named_modules():
        handles.append(module.register_forward_pre_hook(enter(name)))
        handles.append(module.register_forward_hook(lambda *_: stack.pop() and None))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = unet(**inputs)[0].square().mean()
    for handle in handles:
        handle.remove()
    assert loss.isfinite()
    counts: Counter[str] = Counter()
    for size, kind, _ in saved.values():
        counts[kind] += size
    return counts


def rows() -> Iterator[Row]:
    """A row a method: bytes by kind of layer."""
    shape = shape_named(MODEL)
    kinds = {name: kind for name, module in empty_denoiser(shape).named_modules() if (kind := kind_of(name, module))}
    for name in METHODS:
        variant = VARIANTS[name]
        unet = new_denoiser(shape, variant.dtype)
        inputs = random_inputs(unet, shape, RESOLUTION, 1, variant.dtype)
        variant.prepare(unet)
        counts = saved_by_kind(unet.train(), inputs, kinds)
        del unet
        return_memory()
        yield {"case": variant.title, "total": counts.total(), **{kind: counts[kind] for kind in KINDS}}


def mebibytes(kind: str, title: str | None = None) -> Column:
    return Column(title or kind, lambda row, _: f"{row[kind] / MIB:.1f}")


SUITE = Suite(
    "saved",
    "Bytes saved for backward",
    f"MiB in one step of the shape {MODEL}, {RESOLUTION} px, batch 1, bfloat16, no gradient checkpointing. What two "
    "layers save counts for the first. PEFT trains q, k, v and out, as qlora and int8_lora do; peqa and tuneqdm train "
    "every Linear and Conv2d.",
    (
        key("case", "method"),
        *(mebibytes(kind) for kind in KINDS),
        mebibytes("total", "all"),
        Column("to the first", lambda row, first: f"{row['total'] / first['total']:.2f}"),
    ),
    rows,
    ("diffusers", "peft"),
)
