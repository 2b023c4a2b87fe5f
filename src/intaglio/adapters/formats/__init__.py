"""The files in which adapters travel: one format a module, each with `claims`, `read` and `write`.

Another package adds one by `register(MyFormat())`, or by an entry point of the group `intaglio.adapter_formats` that
names an object with these attributes.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from intaglio.errors import UnknownChoice, UserError
from intaglio.safetensors_header import SafetensorsHeader, read_safetensors_header

if TYPE_CHECKING:
    from intaglio.adapters.state import AdapterState, Names

ENTRY_POINTS = "intaglio.adapter_formats"
OWN = ("intaglio", "peft", "diffusers", "kohya", "comfyui")
"""Modules of this package, in the order in which they are asked."""


@runtime_checkable
class AdapterFormat(Protocol):
    name: str
    """What `--to` and `save(format=)` call it."""
    file_name: str
    """Its file in a folder."""
    summary: str
    """One line for `--help`: which programs read it."""

    def claims(self, path: Path, header: SafetensorsHeader) -> bool:
        """Whether this file is of the format. Reads no tensor and needs no torch."""
        ...

    def read(self, path: Path, names: Names | None) -> AdapterState:
        """What the file holds, under the names of the diffusers model.

        Args:
            names: the layers of the model it is read for, None where there is no model. A format whose keys do not
                tell a layer's name by themselves needs it.

        Raises:
            UserError: it cannot be read, in one line.
        """
        ...

    def write(self, path: Path, state: AdapterState) -> None:
        """Write the file whole or not at all.

        Raises:
            UserError: the format cannot hold this adapter.
        """
        ...


_registered: dict[str, AdapterFormat] = {}


def register(format: AdapterFormat) -> None:
    """Add a format, or put another in the place of one of the same name."""
    if not isinstance(format, AdapterFormat):
        raise TypeError(f"{format!r} is no adapter format: it needs name, file_name, summary, claims, read and write")
    _registered[format.name] = format


def adapter_formats() -> dict[str, AdapterFormat]:
    """All formats by name; those that were added from outside are asked first."""
    return {**_registered, **{f.name: f for f in _installed() if f.name not in _registered}}


def format_named(name: str) -> AdapterFormat:
    formats = adapter_formats()
    if name not in formats:
        raise UnknownChoice("adapter format", name, formats)
    return formats[name]


def find_format(path: Path) -> AdapterFormat:
    """The format of an adapter file.

    Raises:
        UserError: a file that no format claims, or that is damaged.
    """
    header = read_safetensors_header(path)
    found = next((f for f in adapter_formats().values() if f.claims(path, header)), None)
    if found is None:
        from intaglio.adapters.keys import refuse_other_kinds, shorten

        refuse_other_kinds(path, header.tensors)
        first = next(iter(header.tensors), None)
        keys = "it holds no tensor" if first is None else f"its keys begin with {shorten(first)!r}"
        raise UserError(f"{path}: no adapter that is known here ({keys}); known: {', '.join(adapter_formats())}")
    return found


@cache
def _installed() -> tuple[AdapterFormat, ...]:
    outside = [entry.load() for entry in entry_points(group=ENTRY_POINTS)]
    own = [import_module(f"{__name__}.{module}").FORMAT for module in OWN]
    return (*(f() if isinstance(f, type) else f for f in outside), *own)
