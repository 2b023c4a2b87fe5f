"""The families, found by the class of a pipeline or of a denoiser.

From outside the package: `intaglio.register_family(MyFamily())`, or an entry point of the group
`intaglio.families` that names the class or an object of it. What is added later is found first.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from torch import nn

from intaglio.errors import UserError, did_you_mean
from intaglio.families.base import Denoisers, Family, Unknown

BUILT_IN = ("sd", "sdxl", "sd3", "flux", "flux2_klein", "z_image", "qwen_image", "krea2", "pixart", "sana")
"""Modules of this folder; each has a `FAMILY`."""
GROUP = "intaglio.families"

_registered: list[Family] = []


def register_family(family: Family) -> Family:
    """Add a family; it goes before those that serve the same classes."""
    _registered.insert(0, family)
    return family


def families() -> list[Family]:
    """All of them, those added last first."""
    return [*_registered, *_from_entry_points(), *_built_in()]


def family_of_pipeline(name: str) -> Family:
    """The family that trains pipelines of the class called `name`.

    Raises:
        UserError: none does.
    """
    known = families()
    for family in known:
        if name in family.pipelines:
            return family
    names = sorted({p for f in known for p in f.pipelines})
    raise UserError(
        f"{name} cannot be trained by this command yet{did_you_mean(name, names)}; it trains {', '.join(names)}. From "
        "Python, intaglio.attach works on any diffusers denoiser, and intaglio.register_family adds a family"
    )


def denoisers_of(model: nn.Module | type | str) -> Denoisers:
    """What is known of a denoiser, by its class or one that it derives from, or by the name of its class."""
    if isinstance(model, str):
        names = [model]
    else:
        names = [kind.__name__ for kind in (model if isinstance(model, type) else type(model)).__mro__]
    known = families()
    for name in names:
        for family in known:
            if name in family.denoisers:
                return family
    return Unknown()


@cache
def _built_in() -> tuple[Family, ...]:
    return tuple(import_module(f"intaglio.families.{name}").FAMILY for name in BUILT_IN)


@cache
def _from_entry_points() -> tuple[Family, ...]:
    found = [point.load() for point in entry_points(group=GROUP)]
    return tuple(f() if isinstance(f, type) else f for f in found)
