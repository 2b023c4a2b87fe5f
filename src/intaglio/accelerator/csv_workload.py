"""A workload from a CSV of M, N, K. All problems are reported at once, each with its line."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from intaglio.accelerator.products import products_of, too_large
from intaglio.accelerator.workload import Label, Workload
from intaglio.errors import Problems, UserError
from intaglio.trace.schema import looks_like_a_formula

COLUMNS = {"M": "M", "N": "N", "K": "K", "batch": "batch", "count": "count", "bits": "left_bits"}
NAMES = ("name", "layer", "Layer")
WIDEST = 64  # bits of an operand


def load_csv_workload(path: Path | str) -> Workload:
    """A CSV with columns M, N, K and optionally name, batch, count, bits; other columns are ignored."""
    path = Path(path)
    columns, lines = _read(path)
    rows, names, problems = [], [], []
    for number, cells in lines:
        while len(cells) > len(columns) and not cells[-1].strip():
            cells.pop()
        if len(cells) > len(columns):
            problems.append(f"line {number}: {len(cells)} cells under {len(columns)} columns; a number has no commas")
            continue
        line = dict(zip(columns, (cell.strip() for cell in cells), strict=False))
        row, wrong = _row(line)
        name = next((line[n] for n in NAMES if line.get(n)), f"row {len(rows) + 1}")
        if looks_like_a_formula(name):
            wrong.append(f"the name {name[:40]!r} is a formula to a spreadsheet; expected a letter first")
        problems += [f"line {number}: {text}" for text in wrong]
        rows.append(row)
        names.append(name)
    if problems:
        raise Problems(str(path), problems)
    labels = tuple(Label(name, "output", "gemm") for name in names)
    return Workload(path.stem, "", products_of(rows), labels, (), np.zeros(0, dtype=np.int64), {"file": path.name})


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The columns' names, and the lines that are not empty, with their numbers."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a CSV with the columns M,N,K")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, skipinitialspace=True)
            columns = [name.strip() for name in next(reader, [])]
            lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file: {error}; expected the columns M,N,K") from error
    while columns and not columns[-1]:  # a comma at the end
        columns.pop()
    missing = [name for name in ("M", "N", "K") if name not in columns]
    if missing:
        came = ",".join(columns)[:80] or "an empty file"
        raise UserError(
            f"{path}:1: missing column{'s' * (len(missing) > 1)} {', '.join(missing)}; got {came!r}, expected M,N,K"
        )
    twice = sorted({name for name in columns if columns.count(name) > 1 and name in (*COLUMNS, *NAMES)})
    if twice:
        raise UserError(f"{path}:1: column{'s' * (len(twice) > 1)} {', '.join(twice)} twice; expected each once")
    if not lines:
        raise UserError(f"{path}: only a header; expected at least one row of M,N,K")
    return columns, lines


def _row(line: dict[str, str]) -> tuple[dict[str, int], list[str]]:
    """A row of products, and what is wrong with the line."""
    row: dict[str, int] = {}
    wrong = []
    for column, field in COLUMNS.items():
        text = line.get(column, "")
        if text == "" and column in ("batch", "count", "bits"):
            continue
        if not (text.isascii() and text.isdecimal()) or int(text) < 1:
            wrong.append(f"{column} must be a positive integer, got {text!r}")
        elif column == "bits" and int(text) > WIDEST:
            wrong.append(f"bits must be at most {WIDEST}, got {text}")
        else:
            row[field] = int(text)
    if not wrong and (size := too_large(row)):
        wrong.append(size)
    row["right_bits"] = row.get("left_bits", 8)
    return row, wrong
