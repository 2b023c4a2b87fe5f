"""Images -> the square batches that image encoders take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

BATCH = 4
"""Images an encoder sees at a time. More are slower on a CPU: EfficientNet-Lite0 takes 34 ms an image at 32, where
its maps leave the cache, and 24 ms at 4 (one core of Zen 4)."""


def square_batches(images: Sequence[Image.Image], size: int) -> Iterator[Tensor]:
    """RGB levels (b, 3, size, size), float32 in [0, 255], b <= `BATCH`; bicubic, the aspect ratio is not kept."""
    if not images:
        raise ValueError("no images to encode")
    for start in range(0, len(images), BATCH):
        rgb = [image.convert("RGB") for image in images[start : start + BATCH]]
        resized = [np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)) for image in rgb]
        yield torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float()
