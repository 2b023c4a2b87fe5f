"""Encode once: text embeddings by caption, latents as the VAE's posterior.

The encoders are callables of the caller, so that nothing here knows a model. A latent is kept as mean and log-variance:
what a step trains on is drawn anew each time, from the step's own generator.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from intaglio.data.photos import Picture
from intaglio.data.store import TensorStore
from intaglio.data.transforms import Cut, PhotoTransform

logger = logging.getLogger(__name__)

EncodeText = Callable[[list[str]], Mapping[str, Tensor]]  # B captions -> named tensors, each (B, ...)
EncodeImages = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""(B, 3, H, W) in [-1, 1] -> mean, log-variance (B, C, h, w); no log-variance of an encoder without a spread."""


class TextCache:
    """Text embeddings by caption, in memory on the CPU, in the dtype that the encoder gives."""

    def __init__(self, encode: EncodeText, *, model_id: str, folder: Path | None = None):
        self._encode = encode
        self._store = TensorStore(folder, "text", model_id)
        self._asked: set[str] = set()
        self.from_disk = 0  # captions that `fill` found in the folder's file

    @torch.no_grad()
    def fill(self, captions: Sequence[str], batch_size: int = 16) -> None:
        """Encode the captions that are not here yet; afterwards the text encoder is needed for no others."""
        wanted = [caption for caption in dict.fromkeys(captions) if caption not in self._asked]
        new = [caption for caption in wanted if _digest(caption) not in self._store]
        self._asked.update(wanted)
        self.from_disk += len(wanted) - len(new)
        for start in range(0, len(new), batch_size):
            batch = new[start : start + batch_size]
            encoded = self._encode(batch)
            for i, caption in enumerate(batch):
                self._store[_digest(caption)] = {name: tensor[i] for name, tensor in encoded.items()}
        self._store.save()

    def __len__(self) -> int:
        """How many captions were asked for."""
        return len(self._asked)

    def has(self, captions: Sequence[str]) -> bool:
        """Whether all of them are here, so that no text encoder is needed."""
        return all(_digest(caption) in self._store for caption in captions)

    def get(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Tensors for a batch of captions, stacked to (B, ...); raises KeyError for one that was not filled in."""
        groups = [self._store[_digest(caption)] for caption in captions]
        return {name: torch.stack([group[name] for group in groups]) for name in groups[0]}


@dataclass(frozen=True)
class Posterior:
    """The VAE's Gaussian over the latent of one picture; tensors (C, h, w) float32 on the CPU, not scaled."""

    mean: Tensor
    logvar: Tensor | None
    original_size: tuple[int, int]  # height, width
    crop_top_left: tuple[int, int]

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw a latent (C, h, w); the log-variance is clamped to [-30, 20] as diffusers does."""
        if self.logvar is None:
            return self.mean
        noise = torch.randn(self.mean.shape, generator=generator)
        return self.mean + torch.exp(0.5 * self.logvar.clamp(-30, 20)) * noise


class LatentCache:
    """Posteriors of photos. Those whose cut is random (a flip, a crop that has room) are encoded at every use."""

    def __init__(
        self,
        photos: Sequence[Picture],
        transform: PhotoTransform,
        encode: EncodeImages,
        *,
        model_id: str,
        folder: Path | None = None,
    ):
        self.photos, self.transform, self._encode = photos, transform, encode
        self._store = TensorStore(folder, "latents", model_id, transform)
        self._keys: dict[int, str] = {}  # photo -> key in the store, for the photos that can be kept
        self.from_disk = 0  # photos that `fill` found in the folder's file
        self.complete = False  # True once every photo is kept: the VAE encoder may leave memory

    def fill(self, batch_size: int = 4) -> None:
        """Encode every photo whose cut is fixed, and say once when some are not."""
        todo: dict[str, Cut] = {}
        for index, photo in enumerate(self.photos):
            image = photo.open()
            if self.transform.varies(*image.size):
                continue
            key = self._keys[index] = photo.digest()
            if key in self._store:
                self.from_disk += 1
            else:
                todo[key] = self.transform(image)
            if len(todo) == batch_size:
                self._keep(todo)
                todo = {}
        self._keep(todo)
        self._store.save()
        self.complete = len(self._keys) == len(self.photos)
        if not self.complete:
            logger.warning(
                "latents of %d of %d photos are not cached: a random flip or crop makes them differ at every use "
                "(--center_crop without --random_flip caches all)",
                len(self.photos) - len(self._keys),
                len(self.photos),
            )

    def get(self, index: int, generator: torch.Generator | None = None) -> Posterior:
        """Posterior of photo `index`; `generator` decides flip and crop where they are random."""
        if index in self._keys:
            return _posterior(self._store[self._keys[index]])
        cut = self.transform(self.photos[index].open(), generator)
        return _posterior(self._groups([cut])[0])

    def _keep(self, cuts: dict[str, Cut]) -> None:
        if cuts:
            for key, group in zip(cuts, self._groups(list(cuts.values())), strict=True):
                self._store[key] = group

    @torch.no_grad()
    def _groups(self, cuts: list[Cut]) -> list[dict[str, Tensor]]:
        means, logvars = self._encode(torch.stack([cut.pixels for cut in cuts]))
        made = {"mean": means} if logvars is None else {"mean": means, "logvar": logvars}
        made = {name: tensor.to("cpu", torch.float32) for name, tensor in made.items()}
        return [
            {**{name: tensor[i] for name, tensor in made.items()}, "cut": _numbers(cut)} for i, cut in enumerate(cuts)
        ]


def _posterior(group: dict[str, Tensor]) -> Posterior:
    height, width, top, left = group["cut"].tolist()
    return Posterior(group["mean"], group.get("logvar"), (height, width), (top, left))


def _numbers(cut: Cut) -> Tensor:
    return torch.tensor([*cut.original_size, *cut.crop_top_left])


def _digest(caption: str) -> str:
    return hashlib.sha256(caption.encode()).hexdigest()
