"""What every measurement shares: where it ran, a clock, and results as JSON lines.

A results file is a line about the run (`record: run`: command, commit, machine, versions) and then a line a row
(`record: row`), in SI units, as measured. `render` makes tables of it.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from intaglio.errors import UserError
from intaglio.files import write_text_atomic

MIB = 2**20
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """What a figure means nothing without."""

    suite: str
    title: str
    command: str
    commit: str
    processor: str
    threads: int
    kernels: str
    versions: dict[str, str]
    note: str = ""

    def line(self) -> str:
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return (
            f"`{self.command}`, commit {self.commit}, {self.processor}, {threads}, our kernels: {self.kernels}, "
            f"{versions}."
        )


def describe(suite: str, title: str, *, threads: int, packages: Iterable[str] = (), note: str = "") -> Run:
    """This process, now."""
    from intaglio.kernels.binding import path_in_use

    versions = {"python": platform.python_version()}
    for name in ("torch", *packages):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return Run(suite, title, _command(), commit(), processor(), threads, path_in_use(), versions, note)


def fastest_seconds(
    calls: Sequence[Callable[[], object]],
    *,
    repeats: int = 7,
    inner: int = 4,
    clock: Callable[[], float] = time.thread_time,
    budget_s: float = float("inf"),
) -> list[float]:
    """The smallest time of each call; the calls take turns, so what else the machine does falls on all of them alike.

    Args:
        repeats: rounds over all calls.
        inner: times in a row within a round: the first of them finds the caches full of what others left there.
        clock: `time.thread_time` (this thread's CPU time) or, with several threads, `time.perf_counter`.
        budget_s: no further round begins after as long; two rounds are made in any case.
    """
    best = [float("inf")] * len(calls)
    end = time.perf_counter() + budget_s
    for done in range(repeats):
        if done > 1 and time.perf_counter() > end:
            break
        for i, call in enumerate(calls):
            for _ in range(inner):
                start = clock()
                call()
                best[i] = min(best[i], clock() - start)
    return best


def processor() -> str:
    """The name of this machine's processor."""
    info = Path("/proc/cpuinfo")
    names = [x for x in info.read_text().splitlines() if x.startswith("model name")] if info.exists() else []
    return names[0].partition(": ")[2] if names else platform.processor() or platform.machine()


def commit() -> str:
    """The short hash of the checkout that this package lies in, marked where files were changed; else "unknown"."""
    folder = Path(__file__).parent
    found = _git(folder, "rev-parse", "--short", "HEAD")
    if not found:
        return "unknown"
    return f"{found} with changes" if _git(folder, "status", "--porcelain", "-uno") else found


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    except OSError:  # no git here
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _command() -> str:
    program = Path(sys.argv[0])
    name = "intaglio" if program.name in ("intaglio", "__main__.py") else f"python {_shown(program)}"
    return " ".join([name, *sys.argv[1:]])


def _shown(program: Path) -> str:
    return os.path.relpath(program) if program.is_absolute() else str(program)


class Results:
    """Rows of one run, written to a file as they come; the file holds this run alone."""

    def __init__(self, run: Run, path: Path | None = None):
        self.run, self.path, self.rows = run, path, list[Row]()
        self._write()

    def add(self, row: Row) -> None:
        self.rows.append(dict(row))
        self._write()

    def _write(self) -> None:
        if self.path is not None:
            lines = [{"record": "run", **asdict(self.run)}, *({"record": "row", **row} for row in self.rows)]
            write_text_atomic(self.path, "".join(json.dumps(line) + "\n" for line in lines))


def read_results(path: Path) -> Results:
    """Raises UserError: not a file of results."""
    try:
        first, *rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        if first.pop("record") != "run":
            raise ValueError("its first line is not about a run")
        results = Results(Run(**first))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected results of `intaglio speed`, *.jsonl") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not results of `intaglio speed` ({error})") from error
    results.rows += [{k: v for k, v in row.items() if k != "record"} for row in rows]
    return results
