"""A judge of prompts for where no CLIP is at hand: two small heads, trained by us, on frozen image and text encoders.

A score by it is called by its folder's name. It is never a training loss; its data and splits are in `judge.json`, with
its scores of real images (`intaglio study judge`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from intaglio.errors import UserError
from intaglio.files import write_atomic
from intaglio.metrics.encoders.protocol import Device, Load

WIDTH = 256
_HIDDEN = 512
WEIGHTS = "judge.safetensors"


class Heads(nn.Module):
    """Image features (B, I) and text features (B, T) -> one space, (B, 256)."""

    def __init__(self, image_width: int, text_width: int):
        super().__init__()
        self.image = nn.Sequential(
            nn.LayerNorm(image_width), nn.Linear(image_width, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, WIDTH)
        )
        self.text = nn.Linear(text_width, WIDTH)
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())


def train_heads(image_NI: Tensor, text_NT: Tensor, *, steps: int = 2000, batch_size: int = 256, seed: int = 0) -> Heads:
    """Heads under which image `i` fits text `i` better than its batch's others, and the reverse (CLIP's loss)."""
    if len(image_NI) != len(text_NT) or len(image_NI) < 2:
        raise ValueError(f"need as many texts as images, at least two: {len(text_NT)} and {len(image_NI)}")
    torch.manual_seed(seed)
    heads = Heads(image_NI.shape[1], text_NT.shape[1])
    optimizer = torch.optim.AdamW(heads.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        picked = torch.randperm(len(image_NI))[:batch_size]
        image = F.normalize(heads.image(image_NI[picked]), dim=-1)
        text = F.normalize(heads.text(text_NT[picked]), dim=-1)
        logits = heads.log_scale.clamp(max=4.6).exp() * image @ text.T  # at most 100, as CLIP
        right = torch.arange(len(picked))
        loss = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return heads.eval().requires_grad_(False)


class SentenceEncoder:
    """Mean-pooled token features (B, T) of a sentence model in a local folder (MiniLM: 384)."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        from transformers import AutoModel, AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            model: Any = AutoModel.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: no sentence model: {str(error).strip().splitlines()[0]}") from error
        self._model, self._device = model.eval().requires_grad_(False).to(device), device

    @torch.no_grad()
    def features(self, texts: Sequence[str]) -> Tensor:
        found = []
        for start in range(0, len(texts), 64):
            part = list(texts[start : start + 64])
            tokens = self._tokenizer(part, padding=True, truncation=True, return_tensors="pt").to(self._device)
            states = self._model(**tokens).last_hidden_state
            mask = tokens["attention_mask"].unsqueeze(-1).to(states.dtype)
            found.append(((states * mask).sum(1) / mask.sum(1)).float().cpu())
        return torch.cat(found)


class Judge:
    """A trained judge; `features` and `text_features` share a space, as CLIP's do."""

    def __init__(self, folder: str, device: Device, load: Load):
        """`load`: loads the image encoder that the judge stands on."""
        path = Path(folder) / WEIGHTS
        if not path.is_file():
            raise UserError(f"{folder}: no {WEIGHTS} in it. Train a judge: intaglio study judge --out {folder}")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        self.name = f"judge:{folder}"
        self._heads = Heads(int(metadata["image_width"]), int(metadata["text_width"]))
        self._heads.load_state_dict(load_file(path))
        self._heads.eval().requires_grad_(False)
        self._images = load(metadata["encoder"], device)
        self._texts = SentenceEncoder(Path(metadata["sentence_model"]), device)

    def features(self, images: Sequence[Image.Image]) -> Tensor:
        return self._heads.image(self._images.features(images))

    def text_features(self, texts: Sequence[str]) -> Tensor:
        return self._heads.text(self._texts.features(texts))


def save_judge(heads: Heads, folder: Path, *, encoder: str, sentence_model: Path, card: dict[str, Any]) -> None:
    """Write the heads, and `card` (splits, scores of real images) as judge.json."""
    metadata = {
        "encoder": encoder,
        "sentence_model": str(sentence_model),
        "image_width": str(heads.image[1].in_features),
        "text_width": str(heads.text.in_features),
    }
    write_atomic(folder / WEIGHTS, lambda temporary: save_file(heads.state_dict(), temporary, metadata))
    (folder / "judge.json").write_text(json.dumps({**metadata, **card}, indent=1) + "\n", encoding="utf-8")
