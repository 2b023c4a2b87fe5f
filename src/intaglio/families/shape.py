"""What a denoiser's shapes follow from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """A denoiser's class and configuration, the default side of its images, and pixels a latent pixel."""

    name: str
    denoiser_class: str
    config: Mapping[str, Any]
    resolution: int
    pixels_per_latent: int = 8
    format: str | None = None
    """Of a folder that is quantized already."""
    text_tokens: int = 77
