"""Results -> Markdown: one renderer for all suites. A suite says which columns it has and how a cell reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from intaglio.speed.harness import MIB, Results, Row


@dataclass(frozen=True)
class Column:
    title: str
    cell: Callable[[Row, Row], str]
    """(row, first row) -> text."""


Columns = Sequence[Column]


def table(rows: Sequence[Row], columns: Columns) -> list[str]:
    cells = [[c.title for c in columns], *([c.cell(row, rows[0]) for c in columns] for row in rows)]
    head, *body = (f"| {' | '.join(line)} |" for line in cells)
    return [head, "|" + "---|" * len(columns), *body]


def page(results: Results, columns: Columns) -> str:
    """Title, where it was measured, what the figures are, the table; and the profiles of rows that have one."""
    run = results.run
    lines = [f"# {run.title}", "", run.line()]
    if run.note:
        lines.append(run.note)
    if results.rows:
        lines += ["", *table(results.rows, columns)]
    for row in results.rows:
        if row.get("profile"):
            lines += ["", f"## {row['title']}: where a step's time goes", "", *table(row["profile"], PROFILE)]
            total = sum(entry["seconds"] for entry in row["profile"])
            lines += ["", f"{total:.3f} s in all, under the profiler, which costs time itself."]
    return "\n".join(lines) + "\n"


def key(name: str, title: str | None = None) -> Column:
    """The value as it is."""
    return Column(title or name, lambda row, _: str(row[name]))


def rate(title: str, seconds: str, amount: str = "operations", unit: float = 1e9, digits: int = 0) -> Column:
    """`amount` a second, in units; empty where the row lacks one of the two."""

    def cell(row: Row, _: Row) -> str:
        return f"{row[amount] / row[seconds] / unit:,.{digits}f}" if row.get(seconds) and row.get(amount) else ""

    return Column(title, cell)


def rates(title: str, forward: str, backward: str, amount: str = "operations", unit: float = 1e9) -> Column:
    """Both directions, "forward / backward"; `amount` may be a pair of them in the row."""

    def cell(row: Row, _: Row) -> str:
        both = row[amount] if isinstance(row[amount], list | tuple) else (row[amount],) * 2
        if row.get(forward) is None or row.get(backward) is None:
            return ""
        return " / ".join(f"{n / row[k] / unit:.0f}" for n, k in zip(both, (forward, backward), strict=True))

    return Column(title, cell)


def _median(row: Mapping[str, Any]) -> float:
    ordered = sorted(row["seconds"])
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


STEPS: Columns = (
    key("title", "method"),
    Column("s", lambda row, _: f"{_median(row):.3f}"),
    Column("fastest, slowest", lambda row, _: f"{min(row['seconds']):.3f}, {max(row['seconds']):.3f}"),
    Column("MiB", lambda row, _: f"{row['peak_bytes'] / MIB:,.0f}"),
    Column("time to the first", lambda row, first: f"{_median(row) / _median(first):.2f}"),
    Column("memory to the first", lambda row, first: f"{row['peak_bytes'] / first['peak_bytes']:.2f}"),
)
"""Median of the steps; memory is the peak of the steps above what the imports take."""
PROFILE: Columns = (
    key("name", "operation"),
    key("calls"),
    Column("ms", lambda row, _: f"{1e3 * row['seconds']:.1f}"),
)
