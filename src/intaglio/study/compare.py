"""`intaglio study run`: tune on tuning tasks, run the table, write what it says."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from intaglio.errors import UnknownChoice, UserError
from intaglio.files import write_atomic, write_text_atomic
from intaglio.metrics.grid import contact_sheet
from intaglio.study import plots, table
from intaglio.study.experiment import Experiment
from intaglio.study.rows import Row, newest, read_rows
from intaglio.study.runner import perform
from intaglio.study.runs import table_runs, tuning_runs
from intaglio.study.tasks.load import load_manifest

TUNED = "tuned.json"
ROWS = "rows.jsonl"
SHEET_TASKS = 4


def compare(
    experiment: Experiment,
    *,
    jobs: int = 1,
    torch_threads: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Do what is not done yet of an experiment; returns its folder.

    The folder then holds rows.jsonl (one row a run), table.md, table.csv, plots and contact sheets; where the
    experiment tunes, tuning.jsonl and tuned.json too. Call it again after an interruption, or with more seeds.

    Raises:
        UserError: the benchmark, a task, the model or a method cannot be used.
    """
    manifest, folder = load_manifest(experiment.bench), experiment.folder
    tuned = {}
    if experiment.tuning is not None:
        tuned = _tune(experiment, jobs, torch_threads, say)
    runs = table_runs(experiment, manifest, tuned)
    rows = perform(runs, folder / ROWS, jobs=jobs, torch_threads=torch_threads, say=say)
    write_report(experiment, rows)
    return folder


def table_of(path: Path, reference: str | None = None, matched_prompt: float = 0.9) -> str:
    """The table of finished rows, of this version or an older one, as Markdown; nothing is run or written.

    Args:
        path: rows.jsonl, or the folder that it lies in.

    Raises:
        UserError: no rows there, or the reference is none of their labels.
    """
    path = path / ROWS if path.is_dir() else path
    rows = newest(read_rows(path))
    if not rows:
        raise UserError(f"{path}: no rows there; expected rows.jsonl of `intaglio study run`, or its folder")
    labels = dict.fromkeys(row.label for row in rows)
    if reference is not None and reference not in labels:
        raise UnknownChoice("label", reference, labels)
    records = table.summarize(rows, reference, matched_prompt)
    return table.markdown(path.parent.name, rows, records, reference, matched_prompt)


def write_report(experiment: Experiment, rows: Sequence[Row]) -> None:
    """Table, plots and contact sheets of finished rows."""
    folder = experiment.folder
    records = table.summarize(rows, experiment.reference, experiment.matched_prompt)
    page = table.markdown(experiment.name, rows, records, experiment.reference, experiment.matched_prompt)
    write_text_atomic(folder / "table.md", page)
    write_text_atomic(folder / "table.csv", table.to_csv(records))
    plots.trade_off(rows, folder / "trade-off.png")
    plots.trade_off(rows, folder / "drift.png", "drift")
    for name in (n for n in plots.COSTS if any(getattr(row, n) for row in rows)):
        plots.cost(rows, name, folder / f"{name.removesuffix('_bytes').replace('_', '-')}.png")
    _sheets(folder, rows)


def _tune(
    experiment: Experiment, jobs: int, torch_threads: int | None, say: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """The settings of each method; computed once, then read."""
    path = experiment.folder / TUNED
    assert experiment.tuning is not None
    if not path.is_file():
        runs = tuning_runs(experiment, load_manifest(experiment.bench))
        say(f"tuning: {len(runs)} runs")
        rows = perform(runs, experiment.folder / "tuning.jsonl", jobs=jobs, torch_threads=torch_threads, say=say)
        how = {"choose_steps": experiment.tuning.choose_steps, "tie": experiment.tuning.tie}
        chosen = table.choose_settings(rows, experiment.matched_prompt, **how)
        write_text_atomic(path, json.dumps(chosen, indent=1) + "\n")
        plots.trade_off(rows, experiment.folder / "tuning.png", "drift", by_rate=True)
    return json.loads(path.read_text(encoding="utf-8"))


def _sheets(folder: Path, rows: Sequence[Row]) -> None:
    """For each of the first tasks: a row of images a method, the first seed's."""
    tasks = list(dict.fromkeys(row.task for row in rows))[:SHEET_TASKS]
    for task in tasks:
        own = {row.label: row for row in reversed(rows) if row.task == task}
        found = [(n, folder / r.folder / "sheet.png") for n, r in sorted(own.items())]
        sheets = [(label, Image.open(path)) for label, path in found if path.is_file()]
        if sheets:
            cell = max(max(sheet.size) for _, sheet in sheets)
            whole = contact_sheet([[s for _, s in sheets]], column_labels=[n for n, _ in sheets], title=task, cell=cell)
            write_atomic(folder / f"sheet-{task}.png", lambda temporary, w=whole: w.save(temporary, format="PNG"))
