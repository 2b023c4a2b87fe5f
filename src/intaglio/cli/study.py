"""`intaglio study`: the benchmark of quality. Build tasks, run methods over them, write tables."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

import click

from intaglio.cli import SETTINGS
from intaglio.cli.console import make_console, quiet_libraries

BUILD_EPILOG = """\b
Examples:
  intaglio study build
  intaglio study build --only families --only styles

Needs npm, apt-get and dpkg-deb (Debian, Ubuntu), and pip install 'intaglio[study]'. The art stays on your machine:
its licences (GPL-2+, CC BY-SA and others, in manifest.json) bind those who pass it on."""
RUN_EPILOG = """\b
Examples:
  intaglio study run recipes/quick.toml
  intaglio study run recipes/single-subject.toml --jobs 2 --threads 1
  intaglio study run recipes/single-subject.toml --dry_run       (the runs, and which are done)

Interrupt it and call it again: finished runs are not repeated. Writes rows.jsonl, table.md, table.csv,
plots and contact sheets."""


@click.group(name="study", context_settings=SETTINGS)
def command() -> None:
    """The study of quality: methods over tasks with known truth, and seeds.

    \b
    Examples:
      intaglio study build --only families
      intaglio study run recipes/quick.toml
      intaglio study table docs/results/quick
    """


@command.command(name="run", context_settings=SETTINGS, epilog=RUN_EPILOG)
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="runs at a time")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of a run [torch's choice]")
@click.option("--dry_run", is_flag=True, help="only list what would be done")
def run(recipe: Path, jobs: int, threads: int | None, dry_run: bool) -> None:
    """Compare methods over tasks and seeds, as RECIPE (TOML) says: a table with intervals, plots, contact sheets."""
    from intaglio.config import load_toml
    from intaglio.study.compare import ROWS, compare
    from intaglio.study.experiment import Experiment
    from intaglio.study.rows import read_rows
    from intaglio.study.runs import table_runs
    from intaglio.study.tasks.load import load_manifest

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
    click.echo((folder / "table.md").read_text(encoding="utf-8"))
    console.print(f"written: {folder}")


@command.command(name="table", context_settings=SETTINGS)
@click.argument("rows", type=click.Path(path_type=Path))
@click.option("--reference", help="label that the others are compared with, pair by pair")
@click.option(
    "--matched_prompt",
    type=float,
    default=0.9,
    show_default=True,
    help="methods are compared among checkpoints whose prompt score is at least this",
)
def table(rows: Path, reference: str | None, matched_prompt: float) -> None:
    """Print the table of finished ROWS: a folder of `study run`, or its rows.jsonl, of any version."""
    from intaglio.study.compare import table_of

    click.echo(table_of(rows, reference, matched_prompt), nl=False)


@command.command(name="build", context_settings=SETTINGS, epilog=BUILD_EPILOG)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("out/bench"), show_default=True)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out/packages"),
    show_default=True,
    help="where packages are unpacked",
)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(["subjects", "families", "objects", "styles"]),
    help="a part; may be given several times [all]",
)
def build(out: Path, cache: Path, only: tuple[str, ...]) -> None:
    """Fetch, draw and list the benchmark's tasks: subjects, emoji families, objects from all around, styles."""
    from intaglio.study.tasks.build import PARTS, build_benchmark
    from intaglio.study.tasks.plan import load_plan

    console = make_console()
    manifest = build_benchmark(load_plan(), out, cache, _colours(), only or PARTS, console.print)
    kinds = sorted({task.kind for task in manifest.tasks})
    counts = ", ".join(f"{sum(t.kind == kind for t in manifest.tasks)} {kind}" for kind in kinds)
    console.print(f"{len(manifest.tasks)} tasks ({counts}): {out / 'manifest.json'}")


@command.command(name="judge", context_settings=SETTINGS)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("out/judge"), show_default=True)
@click.option(
    "--cache", type=click.Path(path_type=Path, file_okay=False), default=Path("out/packages"), show_default=True
)
@click.option("--drawings", type=click.IntRange(100), default=6000, show_default=True, help="images to learn from")
@click.option("--encoder", default="efficientnet-lite0", show_default=True, help="frozen encoder of images")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def judge(out: Path, cache: Path, drawings: int, encoder: str, seed: int) -> None:
    """Train a judge that reads prompts, for where no CLIP is at hand; then --prompt_encoder judge:OUT."""
    from intaglio.study.tasks.plan import load_plan
    from intaglio.study.tasks.train_judge import train_judge

    console = make_console()
    scores = train_judge(
        load_plan(), cache, out, _colours(), encoder_name=encoder, drawings=drawings, seed=seed, say=console.print
    )
    shown = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
    console.print(f"real images of held-out concepts: {shown}")
    console.print(f"written: {out}")


def _colours() -> dict[str, tuple[int, int, int]]:
    table = tomllib.loads((files("intaglio") / "assets" / "colours.toml").read_text(encoding="utf-8"))["backgrounds"]
    return {name: (rgb[0], rgb[1], rgb[2]) for name, rgb in table.items()}
