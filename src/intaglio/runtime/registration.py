"""Tell diffusers of our quantizer: now, or as soon as somebody imports diffusers.

`load_pipeline` calls `register`. The hook is for `DiffusionPipeline.from_pretrained` after a bare `import intaglio`:
diffusers keeps its quantizers in a table and looks for no entry points, and importing it only to enter ourselves would
take seconds. docs/decisions/import.md.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_MODULE = "diffusers.quantizers.auto"


def register_when_imported() -> None:
    """Register now if diffusers' quantizers are imported already, else as soon as they are."""
    if _MODULE in sys.modules:
        register()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def register() -> None:
    """Let diffusers load `quant_method: "intaglio"`. Imports diffusers; a second call does nothing.

    Our quantizer enters itself in diffusers' tables at its end.
    Whoever imports it before diffusers comes through here while it is only half imported: then it just goes on.
    """
    importlib.import_module("intaglio.checkpoints.diffusers_quantizer")


class _Finder(importlib.abc.MetaPathFinder):
    """Finds `diffusers.quantizers.auto` as everyone does, and registers once it has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader):
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        register()
