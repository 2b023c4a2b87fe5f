"""The true images of prompts, and their features, each computed once and kept beside the benchmark."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from intaglio.files import write_atomic
from intaglio.metrics.encoders import ImageEncoder
from intaglio.study.tasks.compose import compose, open_cutout, recolour
from intaglio.study.tasks.manifest import Manifest, Prompt

RGB = tuple[int, int, int]


class Truth:
    def __init__(self, manifest: Manifest, encoder: ImageEncoder):
        self.manifest, self.encoder = manifest, encoder
        self._features: dict[str, Tensor] = {}

    def images(self, files: Sequence[Path], prompt: Prompt, side: int) -> list[Image.Image]:
        """Cut-outs as `prompt` asks for them, RGB, `side` pixels wide; photos come as they are."""
        return [self._image(self.manifest.folder / file, prompt, side) for file in files]

    def features(self, files: Sequence[Path], prompt: Prompt, side: int) -> Tensor:
        """(len(files), D) features of these images."""
        stamps = [(str(f), (self.manifest.folder / f).stat().st_mtime_ns) for f in files]
        asked = [self.encoder.name, side, prompt.background, prompt.team_colour, stamps]
        key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        if key not in self._features:
            path = self.manifest.folder / ".features" / f"{key}.safetensors"
            if not path.is_file():
                found = {"features": self.encoder.features(self.images(files, prompt, side))}
                write_atomic(path, lambda temporary: save_file(found, temporary))
            self._features[key] = load_file(path)["features"]
        return self._features[key]

    def colours(self) -> dict[str, RGB]:
        """The backgrounds that are plain."""
        return {n: b for n, b in self.manifest.backgrounds.items() if not isinstance(b, Path)}

    def textures(self) -> dict[str, list[Image.Image]]:
        """The backgrounds that are not."""
        paths = {n: b for n, b in self.manifest.backgrounds.items() if isinstance(b, Path)}
        return {name: [_texture(self.manifest.folder / path)] for name, path in paths.items()}

    def _image(self, path: Path, prompt: Prompt, side: int) -> Image.Image:
        cutout = _cutout(path)
        if prompt.background is None and cutout.getchannel("A").getextrema() == (255, 255):
            return cutout.convert("RGB")
        if prompt.team_colour is not None:
            cutout = recolour(cutout, self.manifest.palette, self.manifest.team_colours[prompt.team_colour])
        background = (255, 255, 255) if prompt.background is None else self.manifest.backgrounds[prompt.background]
        if isinstance(background, Path):
            return compose(cutout, _texture(self.manifest.folder / background), side)
        return compose(cutout, background, side)


@cache
def _cutout(path: Path) -> Image.Image:
    return open_cutout(path)


@cache
def _texture(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
