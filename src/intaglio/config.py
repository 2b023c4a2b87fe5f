"""TOML and command line -> frozen, strict configuration. All problems of a file are reported at once."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from intaglio.errors import Problems, UserError, did_you_mean


class StrictModel(BaseModel):
    """A frozen configuration; a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())


ModelT = TypeVar("ModelT", bound=BaseModel)


def read_toml(path: Path | str) -> dict[str, Any]:
    """The table of a TOML file, or a `UserError` that names the file, line and column."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a TOML configuration")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from error


def load_toml(path: Path | str, model_type: type[ModelT]) -> ModelT:
    """Read `path` and build `model_type` from it; every problem of the file is reported at once."""
    return build(model_type, read_toml(path), subject=str(path))


def build(model_type: type[ModelT], values: dict[str, Any], subject: str) -> ModelT:
    """Validate `values` as `model_type`; raises `Problems` with one line a mistake.

    Hyphens and underscores in top-level keys are the same.
    """
    values = {key.replace("-", "_"): value for key, value in values.items()}
    try:
        return model_type.model_validate(values)
    except ValidationError as error:
        raise Problems(subject, [explain(e, model_type) for e in error.errors()]) from None


def explain(error: Any, model_type: type[Any]) -> str:
    """One line for one of pydantic's errors: where, what is wrong, what came."""
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _known_keys(model_type, error["loc"][:-1])
        hint = did_you_mean(str(error["loc"][-1]), known) if known else ""
        return f"unknown key {path!r}{hint}" + (f"; known: {', '.join(sorted(known))}" if known and not hint else "")
    if error["type"] == "missing":
        return f"{path}: required, but missing"
    message = error["msg"].removeprefix("Value error, ")
    where = f"{path}: " if path else ""
    came = f", got {error['input']!r}" if path and len(repr(error["input"])) < 80 else ""
    return f"{where}{message[0].lower()}{message[1:]}{came}"


def _known_keys(model_type: type[BaseModel], loc: tuple[int | str, ...]) -> set[str]:
    """Field names of the nested model that `loc` points into; empty when it is no model."""
    current: Any = model_type
    if not loc and hasattr(current, "known_keys"):
        return current.known_keys()
    for part in loc:
        if isinstance(part, int):
            continue
        field = getattr(current, "model_fields", {}).get(part)
        if field is None:
            return set()
        current = _model_of(field.annotation)
    return set(getattr(current, "model_fields", {}))


def _model_of(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_of(argument)
        if found is not None:
            return found
    return None
