"""A strict configuration -> command-line options: the fields are written once, in the configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic_core import PydanticUndefined


def options_of(model_type: type[BaseModel]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that adds one option a field. An option that is not given comes as None (or an empty tuple)."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for name, field in reversed(model_type.model_fields.items()):
            kind, is_list = _kind(field.annotation)
            text = field.description or ""
            default = field.default
            if default not in (None, (), PydanticUndefined) and "[" not in text:
                text = f"{text} [{default}]".strip()
            if kind is bool:
                option = click.option(f"--{name}/--no_{name}", name, default=None, help=text)
            else:
                option = click.option(f"--{name}", name, type=kind, multiple=is_list, help=text)
            function = option(function)
        return function

    return add


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Only what the user wrote."""
    return {key: value for key, value in options.items() if value is not None and value != ()}


def _kind(annotation: Any) -> tuple[Any, bool]:
    """click's type for a field's annotation, and whether it may be given several times."""
    if get_origin(annotation) in (Union, UnionType):
        return _kind(next(a for a in get_args(annotation) if a is not NoneType))
    if get_origin(annotation) is tuple:
        return _kind(get_args(annotation)[0])[0], True
    if get_origin(annotation) is Literal:
        return click.Choice(list(get_args(annotation))), False
    if annotation is Path:
        return click.Path(path_type=Path), False
    return annotation, False
