"""Train the text encoder and the U-Net together on cached latents of every drawing on every background.

python -m pretrain.train_unet --minutes 60 --vae out/pretrain/vae/vae          # from nothing
python -m pretrain.train_unet --minutes 9 --total_minutes 60 --resume          # one piece after another
python -m pretrain.train_unet --minutes 20 --init src/intaglio/assets/base     # further, from committed weights
"""

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor, nn
from transformers import CLIPTokenizer

from pretrain.base import Parts, load_base, new_scheduler, new_text_encoder, new_unet, save_base
from pretrain.captions import backgrounds, caption, draw_template, every_caption
from pretrain.concepts import is_heldout_colour
from pretrain.data import PACK, Pack, allowed_colours, load_pack
from pretrain.optim import MovingAverage, learning_rate_factor, optimizers, set_learning_rate
from pretrain.runtime import Budget, Workers, append_log, mixed_precision, pick_device, save_checkpoint
from pretrain.tokenizer import train_tokenizer
from pretrain.train_vae import composite, encode

TRAINED_VAE = Path("out/pretrain/vae/vae")  # where train_vae leaves it
CHECKPOINT = "checkpoint.pt"
CAPTION_DROPOUT = 0.1  # classifier-free guidance needs the empty caption


@dataclass
class Examples:
    """Cached latents (drawings, colours, 16, 8, 8) and what their captions are made of."""

    latents: Tensor
    rows: list[dict]
    colours: list[str]
    tokenizer: CLIPTokenizer

    def batch(self, indices: list[int], rng: random.Random) -> tuple[Tensor, list[str]]:
        """Latents (B, 16, 8, 8) with captions, backgrounds and templates drawn at random among the allowed ones."""
        chosen, texts = [], []
        for index in indices:
            row, template = self.rows[index], draw_template(rng)
            colour = rng.choice(allowed_colours(row["label"])) if "{colour}" in template else "white"
            chosen.append((index, self.colours.index(colour)))
            text = caption(template, row["label"], row["category"], row["style"], colour)
            texts.append("" if rng.random() < CAPTION_DROPOUT else text)
        drawing, colour_index = torch.tensor(chosen).T
        return self.latents[drawing, colour_index], texts

    def heldout(self, count: int) -> tuple[Tensor, list[str]]:
        """The first `count` held-out (concept, colour) pairs, with full captions."""
        pairs = [
            (index, number)
            for index, row in enumerate(self.rows)
            for number, colour in enumerate(self.colours)
            if is_heldout_colour(row["label"], colour)
        ][:: max(1, len(self.rows) // count)][:count]
        texts = [
            f"a {row['style']} emoji of a {row['label']} on a {self.colours[number]} background"
            for row, number in ((self.rows[index], number) for index, number in pairs)
        ]
        drawing, colour_index = torch.tensor(pairs).T
        return self.latents[drawing, colour_index], texts

    def tokens(self, texts: list[str]) -> Tensor:
        """Token ids (B, 32)."""
        length = self.tokenizer.model_max_length
        found = self.tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return found.input_ids


@torch.no_grad()
def cache_latents(pack: Pack, vae: AutoencoderKL) -> Tensor:
    """Latents (captioned drawings, colours, 16, 8, 8) on the CPU."""
    drawings = torch.from_numpy(pack.rgba[pack.captioned()])
    found = []
    for rgb in backgrounds().values():
        colour = torch.tensor(rgb, dtype=torch.float)
        parts = [composite(part, colour.expand(len(part), 3)) for part in drawings.split(128)]
        found.append(torch.cat([encode(vae, part.to(vae.device)).mean.cpu() for part in parts]))
    return torch.stack(found, dim=1) * vae.config["scaling_factor"]


def velocity_loss(
    parts: nn.ModuleDict, latents: Tensor, tokens: Tensor, timesteps: Tensor, noise: Tensor, scheduler: DDIMScheduler
) -> Tensor:
    """Mean squared error of v = sqrt(a) noise - sqrt(1 - a) latents, one value per sample (B,)."""
    noisy = scheduler.add_noise(latents, noise, timesteps)  # pyright: ignore[reportArgumentType]
    target = scheduler.get_velocity(latents, noise, timesteps)  # pyright: ignore[reportArgumentType]
    with mixed_precision(latents.device):
        text = parts["text_encoder"](tokens).last_hidden_state
        output = parts["unet"](noisy.contiguous(memory_format=torch.channels_last), timesteps, text).sample
    return (output.float() - target).square().mean((1, 2, 3))


def spread_timesteps(count: int, power: float = 1, generator: torch.Generator | None = None) -> Tensor:
    """Timesteps (count,) in 0..999, one from each of `count` equally likely intervals: less noise in the loss.

    `power` 1 is uniform. With 2, 40 % lie over 840: on 8 x 8 latents the words decide the drawing only there,
    below that the noisy picture itself shows what it is.
    """
    uniform = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return (1000 * (1 - (1 - uniform) ** power)).long().clamp(max=999)


def load_parts(arguments: argparse.Namespace, pack: Pack) -> Parts:
    if arguments.init:
        parts = load_base(arguments.init)
        if arguments.vae:
            parts.vae = AutoencoderKL.from_pretrained(arguments.vae)
        return parts
    folder = arguments.out / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        drawings = pack.drawings()
        captions = every_caption(drawings, {label: allowed_colours(label) for label, _, _ in drawings})
        train_tokenizer(captions, sorted({row["label"] for row in pack.rows}), folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    vae = AutoencoderKL.from_pretrained(arguments.vae or TRAINED_VAE)
    return Parts(tokenizer, new_text_encoder(tokenizer), vae, new_unet())


def load_examples(arguments: argparse.Namespace, pack: Pack, parts: Parts, device: torch.device) -> Examples:
    """Latents are made once and lie in --out; a resumed run takes them from there."""
    vae = parts.vae.to(device).eval().requires_grad_(False)  # pyright: ignore[reportArgumentType]
    cached = arguments.out / "latents.pt"
    if not (arguments.resume and cached.exists()):
        save_checkpoint(cached, {"latents": cache_latents(pack, vae)})
    rows = [pack.rows[index] for index in pack.captioned()]
    return Examples(torch.load(cached)["latents"], rows, list(backgrounds()), parts.tokenizer)


@dataclass
class Training:
    """All that goes on from one piece of a training to the next, and the base that comes of it."""

    parts: Parts
    model: nn.ModuleDict
    average: MovingAverage
    optimizers: list[torch.optim.Optimizer]
    budget: Budget
    device: torch.device

    @classmethod
    def start(cls, arguments: argparse.Namespace, parts: Parts, device: torch.device) -> "Training":
        model = nn.ModuleDict({"text_encoder": parts.text_encoder, "unet": parts.unet}).to(device).train()
        model["unet"].to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue, reportArgumentType]
        average = MovingAverage(model, 0.999)
        found = optimizers(model, arguments.learning_rate, 0.6 * arguments.learning_rate)
        total = arguments.total_minutes or arguments.minutes
        budget = Budget(total, arguments.minutes, samples=arguments.samples_before)
        return cls(parts, model, average, found, budget, device)

    def resume(self, folder: Path) -> None:
        """Go on from the checkpoint in `folder`, if there is one."""
        path = folder / CHECKPOINT
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device)
        self.model.load_state_dict(state["model"])
        self.average.model.load_state_dict(state["average"])
        self.average.updates = state["updates"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.budget.samples, self.budget.spent_s = state["samples"], state["spent_s"]

    def save(self, folder: Path) -> None:
        average = self.average.model
        state = {"model": self.model.state_dict(), "average": average.state_dict(), "updates": self.average.updates}
        state["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        save_checkpoint(folder / CHECKPOINT, {**state, **self.budget.state()})
        text_encoder, unet = average["text_encoder"], average["unet"]
        save_base(Parts(self.parts.tokenizer, text_encoder, self.parts.vae, unet), folder / "base")  # pyright: ignore

    def step(self, progress: float) -> None:
        """Take the gradients as they are."""
        set_learning_rate(self.optimizers, learning_rate_factor(progress))
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.average.update(self.model)


class LossLog:
    """Rows of log.csv: the mean loss since the last one, and the average's on held-out pairs with noise that stays."""

    def __init__(
        self, training: Training, examples: Examples, scheduler: DDIMScheduler, arguments: argparse.Namespace
    ) -> None:
        self.training, self.scheduler, self.arguments = training, scheduler, arguments
        latents, texts = examples.heldout(256)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
        timesteps = spread_timesteps(len(latents), generator=torch.Generator().manual_seed(1))
        self.fixed = {"latents": latents, "tokens": examples.tokens(texts), "timesteps": timesteps, "noise": noise}
        self.fixed = {name: part.to(training.device) for name, part in self.fixed.items()}
        self.total, self.steps = torch.zeros((), device=training.device), 0

    def add(self, loss: Tensor) -> None:
        self.total, self.steps = self.total + loss.detach(), self.steps + 1

    def write(self) -> None:
        budget = self.training.budget
        with torch.no_grad():
            heldout = velocity_loss(self.training.average.model, **self.fixed, scheduler=self.scheduler).mean()
        row = {
            "minutes": round(budget.elapsed_s / 60, 2),
            "samples": budget.samples,
            "loss": round(float(self.total) / self.steps, 5),
            "heldout_loss": round(float(heldout), 5),
        }
        append_log(self.arguments.out / "log.csv", row)
        samples = budget.samples - self.arguments.samples_before
        print(row, f"{samples / budget.elapsed_s:.1f} samples/s", flush=True)
        self.total, self.steps = torch.zeros_like(self.total), 0


def picks(count: int, size: int, rng: random.Random) -> Iterator[list[int]]:
    """`size` of `count` indices at a time, without end: each once before any comes again."""
    order: list[int] = []
    while True:
        if len(order) < size:
            order += [int(index) for index in np.random.default_rng(rng.randrange(2**32)).permutation(count)]
        picked, order = order[:size], order[size:]
        yield picked


def train(training: Training, examples: Examples, workers: Workers, arguments: argparse.Namespace) -> None:
    """Until the budget is over; the first process writes the log and the checkpoints."""
    budget, device, out = training.budget, training.device, arguments.out
    rng = random.Random(f"{budget.samples} {arguments.seed} {workers.rank}")
    torch.manual_seed(rng.randrange(2**32))
    scheduler = new_scheduler()
    log = LossLog(training, examples, scheduler, arguments)
    order = picks(len(examples.rows), arguments.batch_size, rng)
    next_log_s, next_save_s = budget.elapsed_s + 30, budget.elapsed_s + 60 * arguments.save_minutes
    over = budget.over
    while not over:
        latents, texts = examples.batch(next(order), rng)
        latents, tokens = latents.to(device), examples.tokens(texts).to(device)
        timesteps = spread_timesteps(len(latents), arguments.timestep_power).to(device)
        noise = torch.randn_like(latents)
        loss = velocity_loss(training.model, latents, tokens, timesteps, noise, scheduler).mean()
        loss.backward()
        progress, over = workers.share(training.model, budget)
        training.step(progress)
        budget.samples += len(latents) * workers.count
        log.add(loss)
        if workers.rank == 0 and budget.elapsed_s > next_log_s:
            log.write()
            next_log_s = budget.elapsed_s + 60
        if workers.rank == 0 and budget.elapsed_s > next_save_s:
            training.save(out)
            next_save_s = budget.elapsed_s + 60 * arguments.save_minutes
    if workers.rank == 0:
        training.save(out)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="stop this piece after so long")
    parser.add_argument("--total_minutes", type=float, help="length of the whole schedule (default: --minutes)")
    parser.add_argument("--data", type=Path, default=PACK)
    parser.add_argument("--vae", type=Path, help=f"default: that of --init, else {TRAINED_VAE}")
    parser.add_argument("--out", type=Path, default=Path("out/pretrain/unet"))
    parser.add_argument("--init", type=Path, help="start from this pipeline folder instead of from nothing")
    parser.add_argument("--samples_before", type=int, default=0, help="samples that --init has seen, for the log")
    parser.add_argument("--resume", action="store_true", help="go on from --out/checkpoint.pt")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--timestep_power", type=float, default=2, help="1: uniform; 2: more of the noisy ones")
    parser.add_argument("--save_minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    workers = Workers.start()
    torch.manual_seed(arguments.seed)
    device = pick_device()
    pack = load_pack(arguments.data)
    parts = load_parts(arguments, pack)
    examples = load_examples(arguments, pack, parts, device)
    training = Training.start(arguments, parts, device)
    if arguments.resume:
        training.resume(arguments.out)
    train(training, examples, workers, arguments)


if __name__ == "__main__":
    main()
