"""What an encoder is: a frozen network that turns images, and perhaps texts, into features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor


class ImageEncoder(Protocol):
    """A frozen network that turns images into features."""

    @property
    def name(self) -> str:
        """As reports print it, and as `load_encoder` takes it."""
        ...

    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """(B, D) float32 on the CPU, not normalized. `images` of any size and mode; at least one."""
        ...


class TextEncoder(ImageEncoder, Protocol):
    """An image encoder with texts in the same space."""

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """(B, D) float32 on the CPU, not normalized."""
        ...


Device = torch.device | str
Load = Callable[[str, Device], ImageEncoder]
"""`load_encoder`, for an encoder that stands on another."""
