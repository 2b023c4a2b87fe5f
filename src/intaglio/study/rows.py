"""A row: what one run asked, cost and scored. One JSON object a line of rows.jsonl.

Version 2 embeds what the training recipe was told (`recipe`). Rows of version 1, which had fields of it one by one, are
read as if they did.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from intaglio.errors import UserError

VERSION = 2


@dataclass(frozen=True)
class Checkpoint:
    step: int
    scores: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Row:
    key: str
    """Equal for runs that would give the same row."""
    label: str
    """The method's name in the table."""
    task: str
    seed: int
    checkpoints: tuple[Checkpoint, ...]
    """In order of their steps; one of step 0 for a base alone."""
    model: str = "embedded"
    base: str | None = None
    """Format of the base; None is float."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """What the training recipe was told; empty for a base alone."""
    learning_rate: float | None = None
    steps: int = 0
    prompt_set: str = ""
    encoder: str = ""
    second_encoder: str | None = None
    prompt_encoder: str = ""
    drawing: Mapping[str, Any] = field(default_factory=dict)
    trainable_parameters: int | None = None
    adapter_bytes: int | None = None
    base_bytes: int | None = None
    peak_memory_bytes: int | None = None
    seconds_per_step: float | None = None
    base_hash: str | None = None
    versions: Mapping[str, str] | None = None
    device: str | None = None
    seconds: float = 0.0
    folder: str = ""
    """Beside rows.jsonl."""
    version: int = VERSION

    @property
    def scores(self) -> Mapping[str, float]:
        """Of the last checkpoint."""
        return self.checkpoints[-1].scores

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"


COSTS = ("trainable_parameters", "adapter_bytes", "base_bytes", "peak_memory_bytes", "seconds_per_step")
"""Fields that say what a method costs."""
_TOLD_BEFORE = ("train_batch_size", "unpack_base")
"""What rows of version 1 had beside `train`."""


def parse_row(values: Mapping[str, Any]) -> Row:
    """A row of any version.

    Raises:
        ValueError: a field is missing, or the version is a later one.
    """
    version = values.get("version", 1)
    if version > VERSION:
        raise ValueError(f"a row of version {version}, but this intaglio reads up to {VERSION}; upgrade intaglio")
    values = dict(values)
    if version == 1 and values.get("train"):
        values["recipe"] = {**values["train"], **{k: values[k] for k in _TOLD_BEFORE if k in values}}
    missing = [name for name in ("key", "label", "task", "seed", "checkpoints") if name not in values]
    if missing:
        raise ValueError(f"a row without {', '.join(missing)}")
    points = tuple(Checkpoint(point["step"], point["scores"]) for point in values["checkpoints"])
    known = {
        f.name: values[f.name] for f in fields(Row) if f.name in values and f.name not in ("checkpoints", "version")
    }
    return Row(**known, checkpoints=points)


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, none when there is no file. A last line that was cut off by a crash is left out.

    Raises:
        UserError: a line is no row.
    """
    if not path.is_file():
        return []
    rows = []
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines):
        try:
            rows += [parse_row(json.loads(line))] if line else []
        except ValueError as error:
            if number < len(lines) - 1:
                raise UserError(
                    f"{path}, line {number + 1}: no row ({error}); delete the line, its run is repeated"
                ) from error
    return rows


def append_row(path: Path, row: Row) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(row.line())


def end_last_line(path: Path) -> None:
    """Cut off what a crash left of a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        if text and not text.endswith("\n"):
            path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")


def newest(rows: Sequence[Row]) -> list[Row]:
    """Of rows of equal label, task, seed, learning rate and steps, the last one, in its first one's place."""
    found: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        found[row.label, row.task, row.seed, row.learning_rate, row.steps] = row
    return list(found.values())


def relabelled(row: Row, label: str) -> Row:
    return replace(row, label=label)
