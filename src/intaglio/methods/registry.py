"""All methods by name: those of this folder, and those that installed packages bring.

A package brings a method by an entry point in the group `intaglio.methods` that names a module or class; a script by
importing `intaglio.methods.base.method` and decorating a class.
"""

from __future__ import annotations

import pkgutil
from dataclasses import asdict
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from intaglio import methods as folder
from intaglio.errors import Problems, UnknownChoice, did_you_mean
from intaglio.methods.base import METHODS, MOVED, Method

NOT_METHODS = ("base", "registry", "settle")


@cache
def _load() -> None:
    for module in pkgutil.iter_modules(folder.__path__):
        if module.name not in NOT_METHODS:
            import_module(f"{folder.__name__}.{module.name}")
    for entry in entry_points(group="intaglio.methods"):
        entry.load()


_load()


def build_method(name: str, options: dict[str, Any]) -> Method:
    """The method called `name` with `options`; raises `Problems` for options that it does not have.

    Options that moved out of the methods since version 0.1.0 (`MOVED`) are left out: adapter files of that version
    have them.
    """
    if name not in METHODS:
        raise UnknownChoice("method", name, METHODS)
    options = {key: value for key, value in options.items() if key not in MOVED}
    known = list(option_fields(METHODS[name]))
    unknown = [k for k in options if k not in known]
    if unknown:
        has = f"it has {', '.join(known)}" if known else "it has no options"
        raise Problems(f"method {name}", [f"no option {k!r}{did_you_mean(k, known)}; {has}" for k in unknown])
    return METHODS[name](**options)


def option_fields(cls: type[Method]) -> dict[str, Any]:
    """pydantic's `FieldInfo` of each option of a method: type, default and description."""
    return cls.__pydantic_fields__  # type: ignore[attr-defined]


def method_options(method: Method) -> dict[str, Any]:
    """The dataclass as a table of TOML or JSON."""
    return asdict(method)  # type: ignore[call-overload]
