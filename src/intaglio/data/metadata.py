"""`metadata.jsonl` of an imagefolder -> rows by image path, with every fault of the file by line."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One line of the file, counted from 1. `caption` is None where the line has none."""

    line: int
    name: str
    caption: str | None
    columns: str


@dataclass
class Rows:
    """What the file says. `named` has every path that a line names; `by_path` those that can be used."""

    caption_column: str
    by_path: dict[Path, Row] = field(default_factory=dict)
    named: set[Path] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def read_rows(path: Path, image_column: str, caption_column: str) -> Rows:
    """Parse `path`; names are relative to its folder and may not leave it. Mistakes are gathered, never raised."""
    rows = Rows(caption_column)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        rows.problems.append(f"{path.name}: not readable as UTF-8 text ({error})")
        return rows
    for number, text in enumerate(lines, start=1):
        if text.strip() and (fault := _take(rows, path.parent, number, text, image_column)):
            rows.problems.append(f"{path.name} line {number}: {fault}")
    return rows


def _take(rows: Rows, folder: Path, number: int, text: str, image_column: str) -> str | None:
    """Add one line to `rows`, or return what is wrong with it."""
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        return f"not valid JSON ({error.msg}, column {error.colno})"
    if not isinstance(record, dict):
        return f'expected an object such as {{"file_name": "a.jpg", "text": "..."}}, not {text.strip()[:40]}'
    columns = ", ".join(record)
    name = record.get(image_column)
    if not isinstance(name, str) or not name.strip():
        return f"no {image_column!r}; name the column of the file names with --image_column (this line has: {columns})"
    image = Path(os.path.normpath(folder / name))
    if Path(name).is_absolute() or not image.resolve().is_relative_to(folder.resolve()):
        return f"{name!r} lies outside the folder; names are relative to metadata.jsonl"
    if image in rows.named:
        first = f"line {rows.by_path[image].line}" if image in rows.by_path else "an earlier line"
        return f"names {name!r} again (first: {first}); keep one caption for each photo"
    rows.named.add(image)
    caption = record.get(rows.caption_column)
    if caption is not None and not isinstance(caption, str):
        return f"{rows.caption_column!r} must be a string, not {caption!r}"
    rows.by_path[image] = Row(number, name, " ".join((caption or "").split()) or None, columns)
    return None
