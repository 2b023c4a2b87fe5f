"""Names of a denoiser's layers: find them, match them, put another module in their place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from intaglio.errors import NoMatch
from intaglio.layers.kinds import AdapterLayer


def find_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """Names and modules of all Linear and Conv2d layers, float or quantized, outside and inside of adapters.

    The base of an adapter layer goes by the name of the layer that it was.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            yield name.removesuffix(".base"), module


def is_kept(name: str, keep_float: Sequence[str]) -> bool:
    """Whether `keep_float` names this layer: as a whole, or a component path at the start of its name."""
    return any(name == kept or name.startswith(kept + ".") for kept in keep_float)


EVERY_LAYER = "all"
"""The target that stands for every Linear and Conv2d."""


def ends(name: str, targets: Sequence[str]) -> bool:
    """Whether one of `targets` is the name, or the last components of it."""
    return any(name == target or name.endswith("." + target) for target in targets)


def match_targets(names: Sequence[str], targets: Sequence[str] | None) -> list[str]:
    """The names that end in a target, as in PEFT; all of them when `targets` is None or just "all".

    Raises:
        NoMatch: a target names no layer.
    """
    if targets is None or list(targets) == [EVERY_LAYER]:
        return list(names)
    unmatched = [t for t in targets if not any(ends(n, [t]) for n in names)]
    if unmatched:
        raise NoMatch(unmatched, names)
    return [n for n in names if ends(n, targets)]


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` in the place of the layer called `name`."""
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)


def adapter_layers(model: nn.Module) -> dict[str, AdapterLayer]:
    return {name: module for name, module in model.named_modules() if isinstance(module, AdapterLayer)}
