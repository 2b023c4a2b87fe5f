"""`intaglio explore`: many designs over one step, and the Pareto front of latency, energy and area."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from intaglio.accelerator.exploration import Space

EPILOG = """\b
Examples:
  intaglio explore --space recipes/accelerator-explore.toml --model sd15 --out out/explore
  intaglio explore --space space.toml --trace out/dog/trace.jsonl --jobs 2 --out out/explore"""


@click.command(
    name="explore",
    context_settings={"token_normalize_func": lambda name: name.replace("-", "_"), "show_default": True},
    epilog=EPILOG,
)
@click.option(
    "--space", type=click.Path(path_type=Path), required=True, help="A TOML file: base, designs, seed, [axes]."
)
@click.option("--trace", type=click.Path(path_type=Path), help="A step that `intaglio trace` recorded.")
@click.option("--workload", type=click.Path(path_type=Path), help="A CSV with the columns M,N,K.")
@click.option("--model", type=click.Choice(["sd15", "sdxl", "dit"]), help="A LoRA step of a published model.")
@click.option("--rank", type=click.IntRange(1), default=16, help="LoRA rank of --model.")
@click.option("--jobs", type=click.IntRange(1), default=2, help="Processes.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder; an earlier run goes on."
)
def command(
    space: Path, trace: Path | None, workload: Path | None, model: str | None, rank: int, jobs: int, out: Path
) -> None:
    """Explore designs over one step: designs.csv as they come, then pareto.csv, explore.html, better.toml."""
    from intaglio.accelerator.csv_workload import load_csv_workload
    from intaglio.accelerator.exploration import Space
    from intaglio.accelerator.exploration_report import write_findings
    from intaglio.accelerator.hardware import load_hardware
    from intaglio.accelerator.model_steps import model_step
    from intaglio.accelerator.workload import load_trace_workload, workload_of_trace
    from intaglio.config import load_toml

    if sum(source is not None for source in (trace, workload, model)) != 1:
        raise click.UsageError("give exactly one of --trace FILE, --workload FILE.csv and --model NAME")
    grid = load_toml(space, Space)
    if trace is not None:
        work = load_trace_workload(trace, load_hardware(grid.base).array.integer_bits)
    elif workload is not None:
        work = load_csv_workload(workload)
    else:
        work = workload_of_trace(model_step(model or "", rank))
    _run(grid, work, out, jobs)
    found = write_findings(grid, work, out, shlex.join(["intaglio", *sys.argv[1:]]))
    click.echo(f"{found.designs:,} designs, {found.infeasible:,} infeasible, {found.front:,} on the Pareto front")
    if found.best is None:
        click.echo(f"none is better than {grid.base} in latency, energy and area")
    else:
        click.echo(f"{found.better:,} are better than {grid.base} in all three; better.toml:")
        for name, base in found.base.items():
            click.echo(f"  {name}: {float(found.best[name]):.4g} for {base:.4g}, {base / float(found.best[name]):.2f}x")
    for row in found.by_axis:
        if row["designs"]:
            figures = f"{row['latency_ms']:,} ms, {row['energy_mj']:,} mJ, {row['area_mm2']} mm2"
            click.echo(f"fastest within its area with {row['axis']} {row['value']}: {figures}, {row['speed_up']:.3f}x")
    click.echo(f"written: {out}/designs.csv, pareto.csv, by_axis.csv, explore.html")


def _run(grid: Space, work: Any, out: Path, jobs: int) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    from intaglio.accelerator.exploration import explore

    total = min(grid.designs, grid.grid_size)
    columns = ("designs", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("designs", total=total)
        for count in explore(grid, work, out, jobs):
            progress.update(task, completed=count)
