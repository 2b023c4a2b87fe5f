"""What a model's layers are called in diffusers, and in the code that the model was released with.

ComfyUI and kohya's scripts keep the released names. Some of those layers are several of diffusers' in one: q, k and v
lie below each other in one weight. A table a family, in both directions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Place:
    """Where a layer of diffusers lies in a released model."""

    native: str
    part: int = 0
    """Which of the fused parts it is, from the top."""
    sizes: tuple[int, ...] = (1,)
    """Rows of all parts, as multiples of a common unit."""


class NameMap:
    """The names of one family.

    Args:
        family: its name in `intaglio.families`.
        version: `ss_base_model_version` of kohya's scripts.
        architecture: `modelspec.architecture` of the Stability AI model specification, without "/lora".
        table: pattern of diffusers' name -> pattern of the released one; "{}" stands for a number. A tuple of names on
            the left is fused into the one on the right, with `sizes` of `fused` or equal parts.
    """

    def __init__(
        self,
        family: str,
        version: str,
        architecture: str,
        table: Mapping[str | tuple[str, ...], str],
        fused: Mapping[str, tuple[int, ...]] | None = None,
    ):
        self.family, self.version, self.architecture = family, version, architecture
        self._rules: list[tuple[str, Place]] = []
        for ours, native in table.items():
            names = (ours,) if isinstance(ours, str) else ours
            sizes = (fused or {}).get(native, (1,) * len(names))
            self._rules += [(name, Place(native, part, sizes)) for part, name in enumerate(names)]

    def place(self, layer: str) -> Place | None:
        """Where diffusers' `layer` lies; None when the family has no such layer."""
        for pattern, place in self._ours:
            match = pattern.fullmatch(layer)
            if match:
                return Place(place.native.format(*match.groups()), place.part, place.sizes)
        return None

    def layers(self, native: str) -> list[tuple[str, Place]]:
        """Diffusers' layers that lie in `native`, from the top; empty when the family has none."""
        found = []
        for pattern, name, place in self._native:
            match = pattern.fullmatch(native)
            if match:
                found.append((name.format(*match.groups()), Place(native, place.part, place.sizes)))
        return found

    def dotted(self, underscored: str) -> str | None:
        """The released name that reads like this with underscores for dots."""
        return _first(self._underscored, underscored)

    def dotted_ours(self, underscored: str) -> str | None:
        """Diffusers' name that reads like this with underscores for dots."""
        return _first(self._underscored_ours, underscored)

    @cached_property
    def _ours(self) -> list[tuple[re.Pattern[str], Place]]:
        return [(_pattern(name), place) for name, place in self._rules]

    @cached_property
    def _native(self) -> list[tuple[re.Pattern[str], str, Place]]:
        return [(_pattern(place.native), name, place) for name, place in self._rules]

    @cached_property
    def _underscored(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_pattern(n.replace(".", "_")), n) for n in dict.fromkeys(p.native for _, p in self._rules)]

    @cached_property
    def _underscored_ours(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_pattern(name.replace(".", "_")), name) for name, _ in self._rules]


def name_maps() -> dict[str, NameMap]:
    """The tables of all transformer families, by family."""
    from intaglio.adapters.names import flux, krea2, qwen_image, sd3, z_image

    maps = (flux.FLUX, flux.FLUX2, sd3.SD3, qwen_image.QWEN_IMAGE, z_image.Z_IMAGE, krea2.KREA2)
    return {names.family: names for names in maps}


def map_for(family: str | None, layers: Iterable[str]) -> NameMap | None:
    """The table of a family: by its name where that is known, else the one that has all of these layers.

    None where several have them, or none has.
    """
    maps = name_maps().values()
    if family is not None:
        return name_maps().get(family)
    layers = list(layers)
    found = [names for names in maps if all(names.place(layer) is not None for layer in layers)]
    return found[0] if len(found) == 1 else None


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(r"(\d{1,4})".join(re.escape(part) for part in text.split("{}")))


def _first(patterns: list[tuple[re.Pattern[str], str]], name: str) -> str | None:
    for pattern, dotted in patterns:
        match = pattern.fullmatch(name)
        if match:
            return dotted.format(*match.groups())
    return None
