"""A picture -> a square tensor, with what SDXL's micro-conditioning must know about how it was cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


class Cut(NamedTuple):
    """A transformed picture."""

    pixels: Tensor  # (3, resolution, resolution), float32 in [-1, 1]
    original_size: tuple[int, int]  # height, width of the picture that came
    crop_top_left: tuple[int, int]  # pixels cut off above and to the left, after the resize
    flipped: bool


@dataclass(frozen=True, kw_only=True)
class PhotoTransform:
    """Flip, resize the shorter side to `resolution` (Lanczos, antialiased), crop a square of it.

    The flip comes first, so that `crop_top_left` speaks of the picture that is seen. Defaults as in the training
    scripts of diffusers: a random crop, no flip.
    """

    resolution: int
    center_crop: bool = False
    random_flip: bool = False

    def __post_init__(self) -> None:
        if self.resolution < 8 or self.resolution % 8:
            raise ValueError(f"resolution must be a positive multiple of 8 pixels, not {self.resolution}")

    def varies(self, width: int, height: int) -> bool:
        """Whether two calls on a picture of this size may differ: its latents can be cached only when they do not."""
        return self.random_flip or (not self.center_crop and self._resized(width, height) != (self.resolution,) * 2)

    def __call__(self, image: Image.Image, generator: torch.Generator | None = None) -> Cut:
        """Transform an RGB picture. `generator` None draws from torch's global generator, as torch functions do."""
        original_size = (image.height, image.width)
        flip, down, right = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        flipped = self.random_flip and flip < 0.5
        if flipped:
            image = ImageOps.mirror(image)
        image = image.resize(self._resized(*image.size), Image.Resampling.LANCZOS)
        spare_height, spare_width = image.height - self.resolution, image.width - self.resolution
        if self.center_crop:
            top, left = round(spare_height / 2), round(spare_width / 2)
        else:
            top, left = int(down * (spare_height + 1)), int(right * (spare_width + 1))
        image = image.crop((left, top, left + self.resolution, top + self.resolution))
        return Cut(to_tensor(image), original_size, (top, left), flipped)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        scale = self.resolution / min(width, height)
        return max(self.resolution, round(width * scale)), max(self.resolution, round(height * scale))


def to_tensor(image: Image.Image) -> Tensor:
    """RGB picture -> (3, H, W) float32 in [-1, 1]."""
    levels_HWC = np.array(image.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(levels_HWC).permute(2, 0, 1).contiguous() / 127.5 - 1


def to_image(pixels: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1] -> RGB picture; values outside are clipped."""
    levels_CHW = ((pixels.detach().float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(levels_CHW.permute(1, 2, 0).numpy())
