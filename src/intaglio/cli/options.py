"""A configuration in sections -> command-line options: the fields are written once, in the configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class SectionedCommand(click.Command):
    """Shows its options section by section in `--help`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(parameter, "section", "Options"), []).append(record)
        for title in sorted(groups, key=lambda title: title == "Options"):
            with formatter.section(title):
                formatter.write_dl(groups[title])


class SectionedOption(click.Option):
    section = "Options"


def options_of(model_type: type[BaseModel], title: str = "Options", skip: Iterable[str] = ()) -> Decorator:
    """A decorator that adds one option a field of a flat configuration, listed under `title`.

    An option that is not given comes as None (or an empty tuple).
    """

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for name, field in reversed(model_type.model_fields.items()):
            if name not in skip:
                function = _option([_flag(name, field)], field, help_of(field), title)(function)
        return function

    return add


def recipe_options() -> Decorator:
    """All that a recipe can say, section by section, with the options of every method."""
    from intaglio.training.recipe import sections

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        function = click.option("--integer_gemms", multiple=True, hidden=True)(function)  # of version 0.1.0
        for name, section in reversed(sections().items()):
            skip = ("name", "options") if name == "method" else ()
            if name == "method":
                function = method_options()(function)
            function = options_of(section, name.capitalize(), skip)(function)
        return function

    return add


def _option(flags: list[str], field: Any, text: str, section: str) -> Decorator:
    kind, is_list = kind_of(field.annotation)
    declared = [f"--{flag}/--no_{flag}" if kind is bool else f"--{flag}" for flag in flags]
    details: dict[str, Any] = {} if kind is bool else {"type": kind, "multiple": is_list}

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        function = click.option(*declared, flags[0], cls=SectionedOption, default=None, help=text, **details)(function)
        function.__click_params__[-1].section = section  # type: ignore[attr-defined]
        return function

    return add


def _flag(name: str, field: Any) -> str:
    extra = field.json_schema_extra
    return extra.get("flag", name) if isinstance(extra, dict) else name


def method_options() -> Decorator:
    """`--method`, and the options of all methods: each is listed once, with the methods that have it."""
    from intaglio.methods.registry import METHODS, option_fields

    owners: dict[str, list[str]] = {}
    fields: dict[str, Any] = {}
    defaults: dict[str, list[str]] = {}
    for name, method in METHODS.items():
        for option, field in option_fields(method).items():
            owners.setdefault(option, []).append(name)
            fields.setdefault(option, field)
            defaults.setdefault(option, []).append(str(_default(field)))

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(fields):
            flags = ["alpha", "lora_alpha"] if option == "alpha" else [option]
            values = sorted(set(defaults[option]))
            each = ", ".join(" ".join(pair) for pair in zip(owners[option], defaults[option], strict=True))
            shown = values[0] if len(values) == 1 else each
            text = f"{fields[option].description} ({', '.join(owners[option])}) [{shown}]"
            function = _option(flags, fields[option], text, "Options of methods")(function)
        text = "what is trained: " + ", ".join(METHODS) + " [int8_lora where INT8 kernels run, else qlora]"
        function = click.option("--method", cls=SectionedOption, help=text)(function)
        function.__click_params__[-1].section = "Method"  # type: ignore[attr-defined]
        return function

    return add


def help_of(field: Any) -> str:
    """The description, with the default unless it says one itself."""
    text, default = field.description or "", field.default
    if default in (None, (), PydanticUndefined) or "[" in text:
        return text
    return f"{text} [{default}]".strip()


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Only what the user wrote."""
    return {key: value for key, value in options.items() if value is not None and value != ()}


def kind_of(annotation: Any) -> tuple[Any, bool]:
    """click's type for a field's annotation, and whether it may be given several times."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return kind_of(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return kind_of(next(a for a in get_args(annotation) if a is not NoneType))
    if origin is tuple:
        return kind_of(get_args(annotation)[0])[0], True
    if origin is Literal:
        return click.Choice(list(get_args(annotation))), False
    if annotation is Path:
        return click.Path(path_type=Path), False
    return annotation, False


def _default(field: Any) -> Any:
    if field.default is None:
        return "rank" if "rank" in (field.description or "") else "none"
    return {True: "yes", False: "no", (): "none"}.get(field.default, field.default)
