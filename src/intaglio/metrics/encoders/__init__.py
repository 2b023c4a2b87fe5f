"""Frozen image encoders by name. A score is only as good as its encoder, so every report names it.

| name | weights | features |
|---|---|---|
| `efficientnet-lite0` | in a package of `intaglio[demo]` | 1280, the pooled last layer at 224 px |
| `squeezenet1.1` | in the package `ndf`, of `intaglio[demo]` | 512, the pooled fire9 layer at 227 px |
| `clip:MODEL` | a local folder or Hub id, through transformers | the projected image embedding: CLIP-I |
| `dino:MODEL` | a local folder or Hub id, through transformers | the class token of the last layer: DINO |
| `judge:FOLDER` | trained by `intaglio study judge` | 256, in one space with texts |

A cosine of one encoder says nothing beside a cosine of another: only CLIP and DINO give the published scores.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from intaglio.errors import UnknownChoice, UserError
from intaglio.metrics.encoders.protocol import Device, ImageEncoder, TextEncoder

DEFAULT_ENCODER = "squeezenet1.1"
"""Of the two that packages ship, the one that tells small, soft images apart better (`benchmarks/judges.py`)."""
SECOND_ENCODER = "efficientnet-lite0"
ENCODERS = ("efficientnet-lite0", "squeezenet1.1", "clip:MODEL", "dino:MODEL", "judge:FOLDER")

_HOMES = {
    "efficientnet-lite0": ("efficientnet", "EfficientNetLite0"),
    "squeezenet1.1": ("squeezenet", "SqueezeNet"),
    "clip": ("hub", "ClipEncoder"),
    "dino": ("hub", "DinoEncoder"),
    "judge": ("judge", "Judge"),
}
_EXAMPLE = {"clip": "openai/clip-vit-base-patch32", "dino": "facebook/dino-vits16", "judge": "out/judge"}
"""Encoders that want a model after the colon."""


def load_encoder(name: str = DEFAULT_ENCODER, device: Device = "cpu") -> ImageEncoder:
    """The encoder called `name`; `UserError` when it is unknown, or its weights are not there."""
    kind, _, model = name.partition(":")
    if kind not in _HOMES or (model and kind not in _EXAMPLE):
        raise UnknownChoice("encoder", name, ENCODERS)
    if not model and kind in _EXAMPLE:
        raise UserError(f"encoder {name!r}: name a model after the colon, for example '{kind}:{_EXAMPLE[kind]}'")
    module, class_name = _HOMES[kind]
    make: Callable[..., Any] = getattr(import_module(f"intaglio.metrics.encoders.{module}"), class_name)
    if kind == "judge":
        return make(model, device, load_encoder)
    return make(model, device) if model else make(device)


def load_text_encoder(name: str, device: Device = "cpu") -> TextEncoder:
    """The encoder called `name`, which must read text; `UserError` when it does not."""
    encoder = load_encoder(name, device)
    if not hasattr(encoder, "text_features"):
        raise UserError(f"encoder {name!r} reads no text; use clip:MODEL or judge:FOLDER")
    return encoder  # type: ignore[return-value]
