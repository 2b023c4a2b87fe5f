"""The forms in which a denoiser's weights come: one source a module, each with `claims` and `weights`.

Another package adds one by `register(MySource())`, or by an entry point of the group `intaglio.weight_sources` that
names an object with these attributes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from intaglio.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from intaglio.quantizers.quantize import QuantizedWeight

ENTRY_POINTS = "intaglio.weight_sources"
OWN = ("intaglio", "bitsandbytes", "gguf", "comfyui", "float")
"""Modules of this package, in the order in which they are asked."""


@runtime_checkable
class WeightSource(Protocol):
    name: str
    summary: str
    """One line: who writes it, and what it becomes here."""

    def claims(self, path: Path, config: Mapping[str, Any] | None) -> bool:
        """Whether the weights at `path` are of this source. Reads headers alone and needs no torch.

        Args:
            path: the folder of a denoiser, or a single file.
            config: `quantization_config` of its config.json, None without one.
        """
        ...

    def weights(self, path: Path, config: Mapping[str, Any] | None) -> Iterator[tuple[str, QuantizedWeight | Tensor]]:
        """Name and value of each weight, one at a time: a layer's name with a quantized weight, or a parameter's name
        with a float tensor.

        Raises:
            UserError: a damaged file, or a variant that is not read, in one line.
        """
        ...


_registered: dict[str, WeightSource] = {}


def register(source: WeightSource) -> None:
    """Add a source, or put another in the place of one of the same name."""
    if not isinstance(source, WeightSource):
        raise TypeError(f"{source!r} is no weight source: it needs name, summary, claims and weights")
    _registered[source.name] = source


def weight_sources() -> dict[str, WeightSource]:
    """All sources by name; those that were added from outside are asked first."""
    return {**_registered, **{s.name: s for s in _installed() if s.name not in _registered}}


def find_source(path: Path, config: Mapping[str, Any] | None, what: str) -> WeightSource:
    """The source of the weights at `path`; `what` is how errors call the model.

    Raises:
        UserError: no source claims them.
    """
    found = next((source for source in weight_sources().values() if source.claims(path, config)), None)
    if found is None:
        method = str((config or {}).get("quant_method"))[:40]
        raise UserError(
            f"{what}: quantized by {method!r}; expected float weights, or a model of one of these: "
            f"{', '.join(weight_sources())}"
        )
    return found


@cache
def _installed() -> tuple[WeightSource, ...]:
    outside = [entry.load() for entry in entry_points(group=ENTRY_POINTS)]
    own = [import_module(f"{__name__}.{module}").SOURCE for module in OWN]
    return (*(s() if isinstance(s, type) else s for s in outside), *own)
