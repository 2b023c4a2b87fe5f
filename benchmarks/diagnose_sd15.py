"""Rounding errors of int8_lora in a U-Net of the shape of Stable Diffusion 1.5, by kind of layer.

    python benchmarks/diagnose_sd15.py

Random weights (no model hub is needed), so this shows what sizes do, not what training makes of them. A few steps let
the pairs leave zero; then one step's inputs and gradients of all 128 trained layers are measured as `intaglio diagnose`
does. Writes benchmarks/results/int8_lora_diagnose_sd15.md.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import defaultdict
from pathlib import Path
from statistics import median

import torch
from diffusers import UNet2DConditionModel

import intaglio
from intaglio.layers.gemm_errors import GEMMS, LayerErrors, layer_errors
from intaglio.layers.int8_lora.layer import Int8LoraLayer
from intaglio.training.diagnose import LayerReport, Tensors, keep_tensors

RESULT = Path(__file__).parent / "results" / "int8_lora_diagnose_sd15.md"


def measure(base: str, resolution: int, steps: int) -> dict[str, LayerErrors]:
    """Errors of every trained layer by name."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(cross_attention_dim=768)
    adapter = intaglio.attach(unet, intaglio.Int8Lora(), base=base, range_search="absmax")
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=adapter.method.learning_rate)
    sample, text = torch.randn(1, 4, resolution // 8, resolution // 8), torch.randn(1, 77, 768)
    layers = {name: m for name, m in unet.named_modules() if isinstance(m, Int8LoraLayer)}

    def backward() -> None:
        optimizer.zero_grad()
        out = unet(sample, torch.tensor([500]), text).sample
        torch.nn.functional.mse_loss(out, torch.randn_like(out)).backward()

    for _ in range(steps):
        backward()
        optimizer.step()
    tensors: dict[str, Tensors] = {}
    handles = [layer.register_forward_hook(keep_tensors(tensors, name)) for name, layer in layers.items()]
    backward()
    for handle in handles:
        handle.remove()
    return {name: layer_errors(layer, *tensors[name]) for name, layer in layers.items()}


def kind(name: str, unet_channels: dict[str, int]) -> str:
    """'attn1.to_q, 320 channels'."""
    found = re.search(r"attn\d\.to_(q|k|v|out)", name)
    assert found is not None
    return f"{found[0]}, {unet_channels[name]} channels"


def table(errors: dict[str, LayerErrors], channels: dict[str, int]) -> list[str]:
    """A line a kind: the median in dB of each product, the worst cosine of each gradient, the most outlier channels."""
    groups: dict[str, list[tuple[str, LayerErrors]]] = defaultdict(list)
    for name, found in errors.items():
        groups[kind(name, channels)].append((name, found))
    head = ["layers", "n", *(f"{g} dB" for g in GEMMS), "cos x", "cos a", "cos b", "lost", "outliers", "to float"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for title, members in sorted(groups.items(), key=lambda item: (int(item[0].split()[1]), item[0])):
        found = [e for _, e in members]
        cells = [f"{median(e.sqnr_db[g] for e in found):.1f}" for g in GEMMS]
        cells += [
            f"{min((e.cosine[k] for e in found if not math.isnan(e.cosine[k])), default=math.nan):.5f}" for k in "xab"
        ]
        bad = sum(LayerReport(name, e).wants_float for name, e in members)
        cells += [f"{max(e.zeros for e in found):.1%}", str(max(e.outlier_channels for e in found)), str(bad)]
        lines.append(f"| {title} | {len(members)} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="int8")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--steps", type=int, default=4, help="of training before the measurement")
    arguments = parser.parse_args()
    errors = measure(arguments.base, arguments.resolution, arguments.steps)
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
    channels = {name: unet.get_submodule(name).out_features for name in errors}  # type: ignore[misc]
    lines = [
        "# int8_lora: diagnose, a U-Net of the shape of Stable Diffusion 1.5",
        "",
        f"`python benchmarks/diagnose_sd15.py`: base {arguments.base}, random weights, {arguments.resolution} px, rank "
        f"16, {len(errors)} layers after {arguments.steps} steps. "
        "Medians of dB; the worst cosine, share lost to zero and count of outlier channels.",
        "",
        *table(errors, channels),
    ]
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
