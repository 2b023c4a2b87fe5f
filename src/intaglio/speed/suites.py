"""The suites of single kernels, by name. Each is a file of `kernels/` with a `SUITE`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from intaglio.errors import UnknownChoice
from intaglio.speed.harness import Results, describe
from intaglio.speed.render import STEPS, Columns
from intaglio.speed.suite import Suite

NAMES = ("gemm", "levels", "attention", "rowwise", "int8_lora", "saved")
QUICK = 2


def load(name: str) -> Suite:
    """Raises UnknownChoice."""
    if name not in NAMES:
        raise UnknownChoice("suite", name, NAMES)
    return import_module(f"intaglio.speed.kernels.{name}").SUITE


def columns_of(suite: str) -> Columns:
    """Of results that a file holds."""
    return STEPS if suite.startswith("step-") else load(suite).columns


def measure(
    suite: Suite, *, threads: int = 1, quick: bool = False, path: Path | None = None, say: Callable[[str], None]
) -> Results:
    """All rows of a suite, the first two if `quick`, written to `path` as they come."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        run = describe(suite.name, suite.title, threads=threads, packages=suite.packages, note=suite.note)
        results = Results(run, path)
        for number, row in enumerate(suite.rows()):
            if quick and number == QUICK:
                break
            results.add(row)
            say(f"{suite.name}: {row['case']}")
    finally:
        torch.set_num_threads(before)
    return results
