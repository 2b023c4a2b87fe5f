"""Frozen image encoders by name. A score is only as good as its encoder, so every report names it.

| name | weights | features |
|---|---|---|
| `efficientnet-lite0` | in a package that intaglio depends on | 1280, the pooled last layer at 224 px |
| `squeezenet1.1` | in the package `ndf`, that intaglio depends on | 512, the pooled fire9 layer at 227 px |
| `clip:MODEL` | a local folder or Hub id, through transformers | the projected image embedding: CLIP-I |
| `dino:MODEL` | a local folder or Hub id, through transformers | the class token of the last layer: DINO |
| `judge:FOLDER` | trained by `intaglio bench-data judge` | 256, in one space with texts |

A cosine of one encoder says nothing beside a cosine of another: only CLIP and DINO give the published scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from intaglio.errors import UnknownChoice, UserError

DEFAULT_ENCODER = "squeezenet1.1"
"""Of the two that packages ship, the one that tells small, soft pictures apart better (`benchmarks/judges.py`)."""
SECOND_ENCODER = "efficientnet-lite0"
ENCODERS = ("efficientnet-lite0", "squeezenet1.1", "clip:MODEL", "dino:MODEL", "judge:FOLDER")


class ImageEncoder(Protocol):
    """A frozen network that turns pictures into features."""

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


def load_text_encoder(name: str, device: torch.device | str = "cpu") -> TextEncoder:
    """The encoder called `name`, which must read text; `UserError` when it does not."""
    encoder = load_encoder(name, device)
    if not hasattr(encoder, "text_features"):
        raise UserError(f"encoder {name!r} reads no text; use clip:MODEL or judge:FOLDER")
    return encoder  # type: ignore[return-value]


def load_encoder(name: str = DEFAULT_ENCODER, device: torch.device | str = "cpu") -> ImageEncoder:
    """The encoder called `name`; `UserError` when it is unknown, or its weights are not there."""
    kind, _, model = name.partition(":")
    if name == "efficientnet-lite0":
        from intaglio.metrics.efficientnet import EfficientNetLite0

        return EfficientNetLite0(device)
    if name == "squeezenet1.1":
        from intaglio.metrics.squeezenet import SqueezeNet

        return SqueezeNet(device)
    if kind in ("clip", "dino"):
        if not model:
            raise UserError(f"encoder {name!r}: name a model after the colon, for example {_EXAMPLE[kind]!r}")
        from intaglio.metrics.hub_encoders import ClipEncoder, DinoEncoder

        return ClipEncoder(model, device) if kind == "clip" else DinoEncoder(model, device)
    if kind == "judge":
        from intaglio.metrics.judge import Judge

        return Judge(model, device)
    raise UnknownChoice("encoder", name, ENCODERS)


_EXAMPLE = {"clip": "clip:openai/clip-vit-base-patch32", "dino": "dino:facebook/dino-vits16"}
