"""Batches: which latents, noise, timesteps and texts a step trains on. A pure function of seed, step and rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from intaglio.data.cache import LatentCache, TextCache
from intaglio.data.noise import step_generator
from intaglio.data.sampling import batch_indices, batch_positions, repeated


@dataclass
class Batch:
    latents: Tensor
    """(B, C, h, w), scaled."""
    noise: Tensor
    timesteps: Tensor
    """int64 (B,)."""
    text: dict[str, Tensor]
    time_ids: Tensor
    """float32 (B, 6)."""
    weights: Tensor
    """float32 (B,): 1 for the user's photos, the prior's weight for class pictures."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        return Batch(
            self.latents.to(device, dtype),
            self.noise.to(device, dtype),
            self.timesteps.to(device),
            {k: v.to(device, dtype) for k, v in self.text.items()},
            self.time_ids.to(device, dtype),
            self.weights.to(device),
        )


@dataclass(frozen=True)
class Source:
    """One stream of pictures: the user's photos, or the class pictures."""

    name: str
    latents: LatentCache
    text: TextCache
    weight: float

    @property
    def order(self) -> list[int]:
        return repeated([photo.repeats for photo in self.latents.photos])


class Batches:
    def __init__(
        self,
        sources: Sequence[Source],
        *,
        seed: int,
        batch_size: int,
        resolution: int,
        num_timesteps: int,
        noise_offset: float,
        scale: float,
        shift: float,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.sources, self.seed, self.batch_size, self.resolution = sources, seed, batch_size, resolution
        self.num_timesteps, self.noise_offset = num_timesteps, noise_offset
        self.scale, self.shift, self.rank, self.world_size = scale, shift, rank, world_size

    def __call__(self, step: int) -> Batch:
        """The batch of call `step` of the model on this rank: `batch_size` samples of each source."""
        samples = []
        for source in self.sources:
            order = source.order
            where = {"batch_size": self.batch_size, "rank": self.rank, "world_size": self.world_size}
            indices = batch_indices(step, seed=self.seed, num_items=len(order), **where)
            for position, index in zip(batch_positions(step, **where), indices, strict=True):
                generator = step_generator(self.seed, 0, position, source.name)  # a position is a step and a place
                samples.append((source, order[index], generator))
        return self._collate([(s, i, g, None) for s, i, g in samples])

    def fixed_set(self, count: int) -> list[Batch]:
        """The same `count` (photo, timestep, noise) triples of the user's photos every time, timesteps evenly spread:
        what the loss before and after training is measured on."""
        source = self.sources[0]
        samples = []
        for number in range(count):
            timestep = int((number + 0.5) * self.num_timesteps / count)
            generator = step_generator(self.seed, 0, number, "fixed set")
            samples.append((source, number % len(source.latents.photos), generator, timestep))
        size = self.batch_size
        return [self._collate(samples[i : i + size]) for i in range(0, count, size)]

    def _collate(self, samples: list[tuple[Source, int, torch.Generator, int | None]]) -> Batch:
        latents, noises, timesteps, time_ids, weights = [], [], [], [], []
        for source, index, generator, timestep in samples:
            posterior = source.latents.get(index, generator)
            latent = (posterior.sample(generator) - self.shift) * self.scale
            noise = torch.randn(latent.shape, generator=generator)
            if self.noise_offset:
                noise += self.noise_offset * torch.randn(latent.shape[0], 1, 1, generator=generator)
            drawn = int(torch.randint(self.num_timesteps, (), generator=generator))
            latents.append(latent)
            noises.append(noise)
            timesteps.append(drawn if timestep is None else timestep)
            target = (self.resolution, self.resolution)
            time_ids.append([*posterior.original_size, *posterior.crop_top_left, *target])
            weights.append(source.weight)
        texts = [s.text.get([s.latents.photos[i].caption]) for s, i, _, _ in samples]
        return Batch(
            torch.stack(latents),
            torch.stack(noises),
            torch.tensor(timesteps),
            {key: torch.cat([t[key] for t in texts]) for key in texts[0]},
            torch.tensor(time_ids, dtype=torch.float32),
            torch.tensor(weights),
        )
