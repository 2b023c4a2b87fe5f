"""A suite: cases of one kind of kernel, and the columns that show them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from intaglio.speed.harness import Row
from intaglio.speed.render import Columns


@dataclass(frozen=True)
class Suite:
    name: str
    title: str
    note: str
    """What the figures mean."""
    columns: Columns
    rows: Callable[[], Iterator[Row]]
    """Measures case after case, in this process, on as many threads as torch has."""
    packages: tuple[str, ...] = ()
