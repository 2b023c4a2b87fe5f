"""`intaglio compare`: methods x formats x tasks x seeds."""

from __future__ import annotations

from pathlib import Path

import click

from intaglio.cli import SETTINGS
from intaglio.cli.console import make_console, quiet_libraries

EPILOG = """\b
Examples:
  intaglio compare recipes/quick.toml
  intaglio compare recipes/single-subject.toml --jobs 2 --threads 1
  intaglio compare recipes/single-subject.toml --dry_run       (the runs, and which are done)

Interrupt it and call it again: finished runs are not repeated. Writes rows.jsonl, table.md, table.csv,
plots and contact sheets."""


@click.command(name="compare", context_settings=SETTINGS, epilog=EPILOG)
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="runs at a time")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of a run [torch's choice]")
@click.option("--dry_run", is_flag=True, help="only list what would be done")
def command(recipe: Path, jobs: int, threads: int | None, dry_run: bool) -> None:
    """Compare methods over tasks and seeds, as RECIPE (TOML) says: a table with intervals, plots, contact sheets."""
    from intaglio.config import load_toml
    from intaglio.study.compare import ROWS, compare
    from intaglio.study.experiment import Experiment, table_runs
    from intaglio.study.manifest import load_manifest
    from intaglio.study.runner import read_rows

    console = make_console()
    experiment = load_toml(recipe, Experiment)
    if dry_run:
        runs = table_runs(experiment, load_manifest(experiment.bench), {})
        done = len(read_rows(experiment.folder / ROWS))
        console.print(f"{len(runs)} runs of {experiment.steps} steps; {done} rows in {experiment.folder / ROWS}")
        for run in runs:
            console.print(f"  {run.label}, {run.task}, seed {run.seed}")
        return
    quiet_libraries()
    folder = compare(experiment, jobs=jobs, torch_threads=threads, say=console.print)
    console.print((folder / "table.md").read_text(encoding="utf-8"))
    console.print(f"written: {folder}")
