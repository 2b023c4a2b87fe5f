"""Float weights in safetensors: what most checkpoints are. They are quantized while they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intaglio.checkpoints.sources.files import TensorFiles

if TYPE_CHECKING:
    from torch import Tensor


class FloatSource:
    name = "float"
    summary = "float32, bfloat16 and float16 weights"

    def claims(self, path: Path, config: Mapping[str, Any] | None) -> bool:
        return config is None and path.suffix != ".gguf"

    def weights(self, path: Path, config: Mapping[str, Any] | None) -> Iterator[tuple[str, Tensor]]:
        files = TensorFiles(path)
        for name in files:
            yield name, files.get(name)


SOURCE = FloatSource()
