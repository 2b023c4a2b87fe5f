"""Bytes that autograd keeps for the backward pass, by kind of layer and method, into benchmarks/results/.

    python benchmarks/saved_bytes.py        # a minute; 6 GB

One forward pass of the U-Net of Stable Diffusion 1.5, 256 px, batch 1, counted by hooks on what autograd saves: bytes
of distinct storages, weights left out. What two layers keep counts for the one that kept it first.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from intaglio.cli.bench import MIB
from intaglio.cli.contestants import CONTESTANTS, MODELS, new_unet
from intaglio.runtime.memory import return_memory

METHODS = ("peft-bf16", "qlora-int", "int8_lora-int4", "peqa-int", "tuneqdm-int")
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


def saved_by_kind(unet: nn.Module, kinds: dict[str, str]) -> Counter[str]:
    """Run forward once. `kinds` names the modules of the plain U-Net; a name below one of them goes by it."""
    own = {t.untyped_storage().data_ptr() for t in (*unet.parameters(), *unet.buffers())}
    kept: dict[int, tuple[int, str, Tensor]] = {}
    stack = [KINDS[-1]]

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:  # the tensor is held, so that no later one takes its place
            kept.setdefault(storage.data_ptr(), (storage.nbytes(), stack[-1], tensor.detach()))
        return tensor

    def enter(name: str) -> Any:
        return lambda *_: stack.append(kinds.get(name, stack[-1]))

    handles = []
    for name, module in unet.named_modules():
        handles.append(module.register_forward_pre_hook(enter(name)))
        handles.append(module.register_forward_hook(lambda *_: stack.pop() and None))
    size = 32
    x, text = torch.randn(1, 4, size, size).bfloat16(), torch.randn(1, 77, MODELS["sd15"]["cross_attention_dim"])
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = unet(x, torch.tensor([500]), text.bfloat16()).sample.square().mean()
    for handle in handles:
        handle.remove()
    assert loss.isfinite()
    counts: Counter[str] = Counter()
    for size, kind, _ in kept.values():
        counts[kind] += size
    return counts


def main() -> None:
    with torch.device("meta"):
        plain = UNet2DConditionModel(**MODELS["sd15"])
    kinds = {name: kind for name, module in plain.named_modules() if (kind := kind_of(name, module))}
    found = {}
    for name in METHODS:
        unet = new_unet("sd15", CONTESTANTS[name].dtype)
        CONTESTANTS[name].prepare(unet)
        found[name] = saved_by_kind(unet.train(), kinds)
        del unet
        return_memory()
        print(name, f"{found[name].total() / MIB:.1f} MiB", flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    lines = [
        "# Bytes kept for the backward pass",
        "",
        "MiB in one step of the U-Net of Stable Diffusion 1.5, 256 px, batch 1, bfloat16, no gradient checkpointing. "
        "What two layers keep counts for the first. PEFT trains q, k, v and out, as qlora and int8_lora do; peqa and "
        "tuneqdm train every Linear and Conv2d.",
        "",
        f"| layers | {' | '.join(CONTESTANTS[n].title for n in METHODS)} |",
        "|" + "---|" * (len(METHODS) + 1),
    ]
    lines += [f"| {kind} | {' | '.join(f'{found[n][kind] / MIB:.1f}' for n in METHODS)} |" for kind in KINDS]
    lines.append(f"| all | {' | '.join(f'{found[n].total() / MIB:.1f}' for n in METHODS)} |")
    first = found[METHODS[0]].total()
    lines.append(f"| to the first | {' | '.join(f'{found[n].total() / first:.2f}' for n in METHODS)} |")
    lines += ["", f"`python benchmarks/saved_bytes.py`, commit {commit or 'unknown'}, torch {torch.__version__}."]
    path = Path(__file__).parent / "results" / "saved_bytes.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
