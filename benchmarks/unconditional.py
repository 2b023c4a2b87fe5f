"""Unconditional generation, in the shape of TuneQDM's CIFAR-10 table: a small latent DDPM of emoji, fine-tuned.

    python benchmarks/unconditional.py                      # needs intaglio bench-data build --only styles
    python benchmarks/unconditional.py --methods peqa,full  # once the base is there, several of these at once
    python benchmarks/unconditional.py --base_steps 20 --steps 4 --images 16 --drawings 100

A DDPM (UNet2DModel, 4 M parameters, epsilon prediction) is trained on latents that the shipped autoencoder makes of the
drawings of some styles (64 px), quantized to 8 bits, and fine-tuned by each method on drawings of another style. Each
method's learning rate is the best of three on a tuning style. The Fréchet distance of the encoder's features to
held-out drawings stands beside the floor, real against real at the same n, and the ceiling: the drawings to learn after
the autoencoder. This is no FID: the encoder is named. A JSON line a row; a row that is there is not computed again.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DModel
from PIL import Image
from torch import Tensor, nn

from intaglio.adapters.attach import attach
from intaglio.checkpoints.load import load_pipeline
from intaglio.methods.registry import build_method
from intaglio.metrics.encoders import DEFAULT_ENCODER, load_encoder
from intaglio.metrics.frechet import frechet_distance, real_floor
from intaglio.study.compose import compose
from intaglio.study.emoji import Style
from intaglio.study.fetch import Packages
from intaglio.study.plan import load_plan

SCALES = (3e-3, 1e-2, 3e-2)
PAIRS = (1e-3, 3e-3, 1e-2)
METHODS: dict[str, tuple[str, dict[str, object], tuple[float, ...]]] = {
    "full": ("full", {}, (1e-4, 3e-4, 1e-3)),
    "qlora-r32": ("qlora", {"base": "int8", "rank": 32}, PAIRS),
    "qlora-r2": ("qlora", {"base": "int8", "rank": 2}, PAIRS),
    "int8-lora-all-r2": ("int8_lora", {"base": "int8", "rank": 2, "targets": ("all",)}, PAIRS),
    "peqa": ("peqa", {"base": "int8"}, SCALES),
    "tuneqdm-n1": ("tuneqdm", {"base": "int8", "num_intervals": 1}, SCALES),
    "tuneqdm-n2": ("tuneqdm", {"base": "int8", "num_intervals": 2}, SCALES),
    "tuneqdm-n4": ("tuneqdm", {"base": "int8", "num_intervals": 4}, SCALES),
    "tas-n2": ("tuneqdm", {"base": "int8", "num_intervals": 2, "input_scales": False}, SCALES),
}
"""Label -> method, options and targets, learning rates: the rows of the paper's table and of its ablation."""
BATCH = 32


def new_unet() -> UNet2DModel:
    """About 4 M parameters, on latents of 16 x 8 x 8."""
    return UNet2DModel(
        sample_size=8,
        in_channels=16,
        out_channels=16,
        block_out_channels=(64, 128),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=16,
        attention_head_dim=16,
    )


def drawings(style: str, cache: Path, limit: int) -> list[Image.Image]:
    """Up to `limit` drawings of a style on white, 64 px, evenly spread over its collection."""
    found = Style(Packages(cache).npm(load_plan().styles[style]))
    names = found.names[:: max(1, len(found.names) // limit)][:limit]
    return [compose(found.draw(name), (255, 255, 255), 64) for name in names]


class Autoencoder:
    """The one of the shipped base, whose latents have unit variance."""

    def __init__(self) -> None:
        self.vae: Any = load_pipeline("embedded").vae

    @torch.no_grad()
    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        levels = torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2).float()
        parts = (levels / 127.5 - 1).split(64)
        return torch.cat([self.vae.encode(part).latent_dist.mean for part in parts]) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        parts = [self.vae.decode(part).sample for part in (latents / self.vae.config.scaling_factor).split(64)]
        levels = ((torch.cat(parts).clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        return [Image.fromarray(level) for level in levels]


def train(
    model: nn.Module, parameters: list[nn.Parameter], latents: Tensor, steps: int, rate: float, seed: int
) -> float:
    """Plain DDPM training, the rate falling to 0 by a cosine; returns the mean loss of the last tenth."""
    scheduler, generator = new_scheduler(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(parameters, lr=rate)
    course = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    losses = []
    for _ in range(steps):
        clean = latents[torch.randint(len(latents), (BATCH,), generator=generator)]
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = torch.randint(1000, (BATCH,), generator=generator)
        noisy = scheduler.add_noise(clean, noise, timesteps)  # pyright: ignore[reportArgumentType]
        loss = (model(noisy, timesteps, return_dict=False)[0] - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        course.step()
        losses.append(loss.item())
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


def new_scheduler() -> DDIMScheduler:
    return DDIMScheduler(beta_schedule="linear", clip_sample=False)


@torch.no_grad()
def sample(model: nn.Module, count: int, inference_steps: int, seed: int) -> Tensor:
    """Latents by DDIM; the same noise for every model."""
    scheduler, generator = new_scheduler(), torch.Generator().manual_seed(seed)
    scheduler.set_timesteps(inference_steps)
    model.eval()
    found: list[Tensor] = []
    for start in range(0, count, 64):
        x = torch.randn(min(64, count - start), 16, 8, 8, generator=generator)
        for timestep in scheduler.timesteps:
            predicted = model(x, timestep, return_dict=False)[0]
            x = scheduler.step(predicted, int(timestep), x, return_dict=False)[0]
        found.append(x)
    return torch.cat(found)


class Table:
    """Rows of one base, kept in a file."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.path = arguments, arguments.out / "rows.jsonl"
        self.autoencoder, self.encoder = Autoencoder(), load_encoder(arguments.encoder)
        self.base = self._trained_base()
        self._truths: dict[str, tuple[Tensor, dict[str, Any], Tensor]] = {}

    def row(self, label: str, style: str, rate: float | None, seed: int) -> dict[str, Any]:
        """Of the base where `rate` is None, else of the base fine-tuned with that rate."""
        arguments = self.arguments
        key = {"method": label, "style": style, "rate": rate, "seed": seed, "base_steps": arguments.base_steps}
        key |= {"steps": arguments.steps, "num_inference_steps": arguments.num_inference_steps}
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        done = [row for row in map(json.loads, lines) if key.items() <= row.items()]
        if done:
            return done[0]
        learned, about_style, heldout = self._truth(style)
        model, trained, loss, began = copy.deepcopy(self.base), 0, None, time.perf_counter()
        if rate is not None:
            method, options = METHODS[label][0], dict(METHODS[label][1])
            torch.manual_seed(seed)
            targets: Any = options.pop("targets", None)
            adapter = attach(model, build_method(method, options), targets=targets)
            trained = adapter.num_parameters
            loss = train(model, adapter.parameters(), learned, arguments.steps, rate, seed)
        seconds = time.perf_counter() - began
        images = self.autoencoder.decode(sample(model, about_style["n"], arguments.num_inference_steps, seed))
        distance = frechet_distance(self.encoder.features(images), heldout[: about_style["n"]])
        row = key | {"fd": distance, **about_style, "loss": loss, "trained": trained, "seconds": round(seconds)}
        row["encoder"] = self.encoder.name
        print(json.dumps(row), flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._save_pictures(images, f"{label}-{style}-{rate}-{seed}.png")
        return row

    def _truth(self, style: str) -> tuple[Tensor, dict[str, Any], Tensor]:
        """Latents to learn, distances that need no model, features of the held-out drawings."""
        if style not in self._truths:
            real = drawings(style, self.arguments.cache, self.arguments.drawings)
            learned, heldout = self.autoencoder.encode(real[::2]), self.encoder.features(real[1::2])
            n = min(self.arguments.images, len(heldout) // 2)
            decoded = self.encoder.features(self.autoencoder.decode(learned[:n]))
            about = {
                "n": n,
                "fd_floor": real_floor(heldout, n),
                "fd_autoencoder": frechet_distance(decoded, heldout[:n]),
            }
            self._truths[style] = (learned, about, heldout)
        return self._truths[style]

    def _trained_base(self) -> UNet2DModel:
        arguments = self.arguments
        path = arguments.out / f"base-{arguments.base_steps}"
        if not path.is_dir():
            torch.manual_seed(arguments.seed)
            base = new_unet()
            styles = arguments.base_styles.split(",")
            pictures = [d for style in styles for d in drawings(style, arguments.cache, arguments.drawings)]
            latents = self.autoencoder.encode(pictures)
            train(base, list(base.parameters()), latents, arguments.base_steps, 5e-4, arguments.seed)
            base.save_pretrained(path)
        return UNet2DModel.from_pretrained(path)

    def _save_pictures(self, images: Sequence[Image.Image], name: str) -> None:
        grid = Image.new("RGB", (8 * 64, 64 * -(-len(images[:32]) // 8)))
        for i, image in enumerate(images[:32]):
            grid.paste(image, (i % 8 * 64, i // 8 * 64))
        grid.save(self.arguments.out / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_styles", default="noto,blob", help="what the base is trained on")
    parser.add_argument("--tuning_style", default="twemoji", help="what learning rates are tuned on")
    parser.add_argument("--style", default="openmoji", help="what is learned in the table")
    parser.add_argument("--cache", type=Path, default=Path("out/packages"))
    parser.add_argument("--drawings", type=int, default=1500, help="of each style")
    parser.add_argument("--base_steps", type=int, default=10000)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--images", type=int, default=375)
    parser.add_argument("--num_inference_steps", type=int, default=30)
    parser.add_argument("--encoder", default=DEFAULT_ENCODER)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the base")
    parser.add_argument("--out", type=Path, default=Path("out/unconditional"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = Table(arguments)
    for seed in range(arguments.seeds):
        table.row("base", arguments.style, None, seed)
    for label in arguments.methods.split(","):
        rates = METHODS[label][2]
        tuned = min(rates, key=lambda rate: table.row(label, arguments.tuning_style, rate, 0)["fd"])
        for seed in range(arguments.seeds):
            table.row(label, arguments.style, tuned, seed)


if __name__ == "__main__":
    main()
