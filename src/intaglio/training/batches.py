"""Batches: which latents, noise, times and texts a step trains on. A pure function of seed, step and rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from intaglio.data.cache import LatentCache, TextCache
from intaglio.data.noise import step_generator
from intaglio.data.sampling import batch_indices, batch_positions, repeated
from intaglio.diffusion.objective import Objective
from intaglio.diffusion.time import as_times
from intaglio.families.base import Conditioning, Family


@dataclass
class Batch:
    x0: Tensor
    """(B, C, h, w): clean latents, normalized."""
    noise: Tensor
    t: Tensor
    """float64 (B,) in [0, 1], on the CPU always."""
    conditioning: Conditioning
    """Each (B, ...)."""
    weights: Tensor
    """float32 (B,): 1 for the user's photos, the prior's weight for class pictures."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        return Batch(
            self.x0.to(device, dtype),
            self.noise.to(device, dtype),
            self.t,
            {k: v.to(device, dtype if v.is_floating_point() else v.dtype) for k, v in self.conditioning.items()},
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
        family: Family,
        objective: Objective,
        normalize: Callable[[Tensor], Tensor],
        noise_offset: float,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.sources, self.seed, self.batch_size, self.resolution = sources, seed, batch_size, resolution
        self.family, self.objective, self.normalize = family, objective, normalize
        self.noise_offset, self.rank, self.world_size = noise_offset, rank, world_size

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
        """The same `count` (photo, time, noise) triples of the user's photos every time, times evenly spread over
        what training draws: what the loss before and after it is measured on."""
        source = self.sources[0]
        times = self.objective.times((torch.arange(count, dtype=torch.float64) + 0.5) / count).tolist()
        samples = []
        for number in range(count):
            generator = step_generator(self.seed, 0, number, "fixed set")
            samples.append((source, number % len(source.latents.photos), generator, times[number]))
        size = self.batch_size
        return [self._collate(samples[i : i + size]) for i in range(0, count, size)]

    def _collate(self, samples: list[tuple[Source, int, torch.Generator, float | None]]) -> Batch:
        latents, noises, times, told, weights = [], [], [], [], []
        for source, index, generator, time in samples:
            posterior = source.latents.get(index, generator)
            latent = self.normalize(posterior.sample(generator))
            noise = torch.randn(latent.shape, generator=generator)
            if self.noise_offset:
                noise += self.noise_offset * torch.randn(latent.shape[0], 1, 1, generator=generator)
            drawn = self.objective.draw(generator)
            latents.append(latent)
            noises.append(noise)
            times.append(drawn if time is None else time)
            size, crop = posterior.original_size, posterior.crop_top_left
            told.append(self.family.image_conditioning(size, crop, self.resolution))
            weights.append(source.weight)
        texts = [s.text.get([s.latents.photos[i].caption]) for s, i, _, _ in samples]
        return Batch(
            torch.stack(latents),
            torch.stack(noises),
            as_times(times),
            {key: stacked([t[key] for t in texts]) for key in texts[0]}
            | {key: torch.tensor([of_one[key] for of_one in told], dtype=torch.float32) for key in told[0]},
            torch.tensor(weights),
        )


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """(1, L, ...) of different L -> (B, longest L, ...), zeros behind the shorter: their masks are zero there too."""
    longest = max((t.shape[1] for t in tensors if t.ndim > 1), default=0)
    padded = [t if t.ndim < 2 or t.shape[1] == longest else _longer(t, longest) for t in tensors]
    return torch.cat(padded)


def _longer(tensor: Tensor, length: int) -> Tensor:
    found = tensor.new_zeros(tensor.shape[0], length, *tensor.shape[2:])
    found[:, : tensor.shape[1]] = tensor
    return found
