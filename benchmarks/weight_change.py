"""How fine-tuning changes a layer's weight: full fine-tuning beside methods that train scales (TuneQDM, Figure 2).

    python benchmarks/weight_change.py --adapter out/full --adapter out/peqa --adapter out/tuneqdm

For each adapter: |W' - W| over the mean |W| of the output channel, as an image of output x input channels, and the
share of the change's square that the best scales could make: by output channel, and by output and input channel. PEQA
makes all of its change with the first, TuneQDM with the second; for full fine-tuning the shares say how much of what it
does scales can express, beside what a low-rank pair could: rank 1 has as many parameters as both scales.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from intaglio.adapters.attach import load_adapter
from intaglio.checkpoints.load import denoiser_of
from intaglio.layers import frozen
from intaglio.layers.kinds import MergeableLayer
from intaglio.layers.names import find_layers
from intaglio.layers.scaled import TimestepScaledLayer
from intaglio.study.evaluate import open_base

DEFAULT_LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def scale_shares(before: Tensor, after: Tensor, iterations: int = 50) -> dict[str, float]:
    """Shares in [0, 1] of |W' - W|^2 that the best scales explain: `output` alone, `both` with input scales.

    Least squares of W' on r_o W and on r_o W r_i, the second by turns; weights (O, I) or (O, I, kh, kw).
    """
    old, new = (w.double().reshape(w.shape[0], w.shape[1], -1) for w in (before, after))
    total = float((new - old).square().sum())
    if total == 0:
        return {"output": 0.0, "both": 0.0}
    r_in = torch.ones(1, old.shape[1], 1, dtype=torch.float64)
    shares = {}
    for number in range(iterations):
        scaled = old * r_in
        r_out = (new * scaled).sum((1, 2), keepdim=True) / scaled.square().sum((1, 2), keepdim=True).clamp_min(1e-30)
        if number == 0:
            shares["output"] = 1 - float((new - scaled * r_out).square().sum()) / total
        scaled = old * r_out
        r_in = (new * scaled).sum((0, 2), keepdim=True) / scaled.square().sum((0, 2), keepdim=True).clamp_min(1e-30)
    return {**shares, "both": 1 - float((new - old * r_out * r_in).square().sum()) / total}


def rank_shares(before: Tensor, after: Tensor, ranks: tuple[int, ...] = (1, 2, 16)) -> dict[str, float]:
    """Shares in [0, 1] of |W' - W|^2 that the best change of each rank makes, of (O, I) or (O, I kh kw)."""
    squares = torch.linalg.svdvals((after - before).double().flatten(1)).square()
    total = float(squares.sum())
    return {f"rank_{rank}": float(squares[:rank].sum()) / total if total else 0.0 for rank in ranks}


def relative_change(before: Tensor, after: Tensor) -> Tensor:
    """|W' - W| over the mean |W| of the output channel: (O, I), kernels averaged."""
    if before.ndim == 2:
        before, after = before.unsqueeze(-1), after.unsqueeze(-1)
    before, after = before.double().flatten(2), after.double().flatten(2)
    size = before.abs().mean(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    return ((after - before).abs() / size).mean(dim=2)


def dense_weight(layer: nn.Module, interval: int) -> Tensor:
    """(O, I, ...) of a layer as it computes, with what is trained beside its base folded in."""
    if isinstance(layer, MergeableLayer):
        return layer.merged_float().weight.detach()
    if isinstance(layer, TimestepScaledLayer):
        weight = frozen.to_float(layer.base).weight.detach()
        ones = (1,) * (weight.ndim - 2)
        factor = (1 + layer.output_offset[interval]).reshape(-1, 1, *ones)
        if layer.input_offset is not None:
            factor = factor * (1 + layer.input_offset[interval]).reshape(1, -1, *ones)
        return (weight * factor).detach()
    return frozen.to_float(layer).weight.detach().clone()  # type: ignore[arg-type]


def medians(denoiser: nn.Module, before: dict[str, Tensor], interval: int) -> dict[str, float]:
    """Of each share, over all layers that the adapter changed."""
    shares = []
    for name, old in before.items():
        new = dense_weight(denoiser.get_submodule(name), interval)
        if not torch.equal(old, new):
            shares.append({**scale_shares(old, new, 10), **rank_shares(old, new)})
    return {key: statistics.median(s[key] for s in shares) for key in shares[0]} | {"layers": len(shares)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path, action="append", required=True, help="folder of a run; several times")
    parser.add_argument("--layer", default=DEFAULT_LAYER, help="name of a Linear or Conv2d")
    parser.add_argument("--interval", type=int, default=0, help="timestep interval of methods that have several")
    parser.add_argument("--every_layer", action="store_true", help="medians over all layers too")
    parser.add_argument("--model", help="[the one that each adapter was trained on]")
    parser.add_argument("--out", type=Path, default=Path("out/weight-change"))
    arguments = parser.parse_args()
    figure, axes = plt.subplots(1, len(arguments.adapter), figsize=(4.2 * len(arguments.adapter), 3.6), squeeze=False)
    table = {}
    for axis, folder in zip(axes[0], arguments.adapter, strict=True):
        denoiser = denoiser_of(open_base(folder, arguments.model))[1]
        every = {n: dense_weight(m, 0).clone() for n, m in find_layers(denoiser)}
        before = every[arguments.layer]
        load_adapter(denoiser, folder)
        after = dense_weight(denoiser.get_submodule(arguments.layer), arguments.interval)
        change = relative_change(before, after)
        table[folder.name] = {"mean_change": float(change.mean()), **scale_shares(before, after)}
        table[folder.name] |= rank_shares(before, after)
        if arguments.every_layer:
            found = medians(denoiser, every, arguments.interval)
            table[folder.name] |= {f"median_{key}": value for key, value in found.items()}
        image = axis.imshow(change.numpy(), aspect="auto", cmap="magma", vmin=0, vmax=float(change.quantile(0.99)) or 1)
        axis.set(title=folder.name, xlabel="input channel", ylabel="output channel")
        figure.colorbar(image, ax=axis)
    figure.suptitle(arguments.layer, fontsize=9)
    arguments.out.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(arguments.out / "weight-change.png", dpi=130)
    (arguments.out / "weight-change.json").write_text(json.dumps(table, indent=1) + "\n")
    for name, shares in table.items():
        print(name, " ".join(f"{key} {value:.3f}" for key, value in shares.items()))


if __name__ == "__main__":
    main()
