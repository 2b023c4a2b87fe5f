"""Unconditional generation, in the shape of TuneQDM's CIFAR-10 table: a small DDPM of emoji, quantized, fine-tuned.

    python benchmarks/unconditional.py                       # needs intaglio bench-data build --only styles
    python benchmarks/unconditional.py --base_steps 20 --steps 4 --images 16 --side 16

A DDPM (UNet2DModel, epsilon prediction) is trained on the drawings of some styles, quantized to 8 bits, and fine-tuned
by each method on the drawings of another. The Fréchet distance of the encoder's features to held-out drawings of that
style stands beside the floor, real against real at the same n. This is no FID: the encoder is named. A JSON line a row.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DModel
from PIL import Image
from torch import Tensor, nn

from intaglio.benchmark.compose import compose
from intaglio.benchmark.emoji import Style
from intaglio.benchmark.fetch import Packages
from intaglio.benchmark.plan import load_plan
from intaglio.evaluation.encoders import DEFAULT_ENCODER, load_encoder
from intaglio.evaluation.frechet import frechet_distance, real_floor
from intaglio.methods.attach import attach
from intaglio.methods.registry import build_method

METHODS: dict[str, tuple[str, dict[str, object], float]] = {
    "peqa": ("peqa", {"base": "int8"}, 3e-3),
    "qlora-r2": ("qlora", {"base": "int8", "rank": 2}, 1e-3),
    "qlora-r32": ("qlora", {"base": "int8", "rank": 32}, 1e-3),
    "tuneqdm-n2": ("tuneqdm", {"base": "int8", "num_intervals": 2}, 3e-3),
}
"""Label -> method, options, learning rate: the rows of the paper's table."""
BATCH = 16


def new_unet(side: int) -> UNet2DModel:
    """About 4 M parameters."""
    return UNet2DModel(
        sample_size=side,
        block_out_channels=(32, 64, 128),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=16,
    )


def drawings(style: str, cache: Path, side: int, limit: int) -> list[Image.Image]:
    """Up to `limit` drawings of a style on white, evenly spread over its collection."""
    found = Style(Packages(cache).npm(load_plan().styles[style]))
    names = found.names[:: max(1, len(found.names) // limit)][:limit]
    return [compose(found.draw(name), (255, 255, 255), side) for name in names]


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    levels = torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2).float()
    return levels / 127.5 - 1


def train(
    model: nn.Module, parameters: list[nn.Parameter], images: Tensor, steps: int, rate: float, seed: int
) -> float:
    """Plain DDPM training; returns the mean loss of the last tenth."""
    scheduler, generator = new_scheduler(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(parameters, lr=rate)
    model.train()
    losses = []
    for _ in range(steps):
        clean = images[torch.randint(len(images), (BATCH,), generator=generator)]
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = torch.randint(1000, (BATCH,), generator=generator)
        noisy = scheduler.add_noise(clean, noise, timesteps)  # pyright: ignore[reportArgumentType]
        loss = (model(noisy, timesteps, return_dict=False)[0] - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


def new_scheduler() -> DDIMScheduler:
    return DDIMScheduler(beta_schedule="linear", clip_sample=True)


@torch.no_grad()
def sample(model: nn.Module, count: int, side: int, inference_steps: int, seed: int) -> list[Image.Image]:
    """DDIM samples; the same noise for every model."""
    scheduler, generator = new_scheduler(), torch.Generator().manual_seed(seed)
    scheduler.set_timesteps(inference_steps)
    model.eval()
    found: list[Image.Image] = []
    while len(found) < count:
        x = torch.randn(min(64, count - len(found)), 3, side, side, generator=generator)
        for timestep in scheduler.timesteps:
            predicted = model(x, timestep, return_dict=False)[0]
            x = scheduler.step(predicted, int(timestep), x, return_dict=False)[0]
        levels = ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        found += [Image.fromarray(level) for level in levels]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_styles", default="noto,blob,twemoji", help="what the base is trained on")
    parser.add_argument("--style", default="openmoji", help="what is learned")
    parser.add_argument("--cache", type=Path, default=Path("out/packages"))
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--drawings", type=int, default=1500, help="of each style")
    parser.add_argument("--base_steps", type=int, default=20000)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--num_inference_steps", type=int, default=50)
    parser.add_argument("--encoder", default=DEFAULT_ENCODER)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/unconditional"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    encoder = load_encoder(arguments.encoder)

    def drawn(style: str) -> list[Image.Image]:
        return drawings(style, arguments.cache, arguments.side, arguments.drawings)

    real = drawn(arguments.style)
    learned, heldout = to_tensor(real[::2]), encoder.features(real[1::2])
    images = min(arguments.images, len(heldout) // 2)
    torch.manual_seed(arguments.seed)
    base, path = new_unet(arguments.side), arguments.out / f"base-{arguments.side}-{arguments.base_steps}"
    if path.is_dir():
        base = UNet2DModel.from_pretrained(path)
    else:
        pictures = to_tensor([d for style in arguments.base_styles.split(",") for d in drawn(style)])
        train(base, list(base.parameters()), pictures, arguments.base_steps, 2e-4, arguments.seed)
        base.save_pretrained(path)

    def report(label: str, model: nn.Module, trained: int, loss: float | None) -> None:
        made = sample(model, images, arguments.side, arguments.num_inference_steps, arguments.seed)
        distance = frechet_distance(encoder.features(made), heldout[:images])
        row = {"method": label, "fd": distance, "fd_floor": real_floor(heldout, images), "n": images, "loss": loss}
        row |= {"trained": trained, "encoder": encoder.name, "seed": arguments.seed, "steps": arguments.steps}
        print(json.dumps(row), flush=True)
        with (arguments.out / "rows.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    report("base", base, 0, None)
    for label in arguments.methods.split(","):
        name, options, rate = METHODS[label]
        model = copy.deepcopy(base)
        adapter = attach(model, build_method(name, options))
        loss = train(model, adapter.parameters(), learned, arguments.steps, rate, arguments.seed)
        report(label, model, adapter.num_parameters, loss)


if __name__ == "__main__":
    main()
