"""`intaglio speed`: time and memory on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from intaglio.cli import SETTINGS
from intaglio.speed.suites import NAMES as SUITES
from intaglio.speed.variants import DEFAULT, REFERENCE, VARIANTS
from intaglio.speed.work import Work

if TYPE_CHECKING:
    from intaglio.speed.harness import Results

DRAW = ("bf16", REFERENCE, "qlora", "tuneqdm")
THREADS = os.cpu_count() or 1
SHOWN: dict[str, Any] = {**SETTINGS, "show_default": True}
STEP_EPILOG = f"""\b
Examples:
  intaglio speed step
  intaglio speed step --methods peft-bf16,qlora,train:qlora --model sdxl --resolution 512
  intaglio speed step --methods int8_lora --profile

Variants: {", ".join(VARIANTS)}. A bare method is attach(unet, Method()) without options; with tuned: before it, attach
after tune_allocator(); with train: before it, what `intaglio train` does. One process a variant, alive together, so
leave memory for all of them. Ratios within a run are what counts, on a machine that does nothing else."""


@click.group(name="speed", context_settings=SETTINGS)
def command() -> None:
    """The benchmark of speed. Each writes JSON lines, and Markdown beside them, where --out is given.

    \b
    Examples:
      intaglio speed step
      intaglio speed kernels --suite gemm
      intaglio speed render results/step.jsonl
    """


@command.command(name="step", context_settings=SHOWN, epilog=STEP_EPILOG)
@click.option("--methods", help=f"Variants, with commas between.  [default: {','.join(DEFAULT)}]", show_default=False)
@click.option("--model", default="sd15", help="Shape of the denoiser: small, sd15, sdxl, ...; its weights are random.")
@click.option("--resolution", type=click.IntRange(64), default=256, help="Side of the images in pixels.")
@click.option("--train_batch_size", type=click.IntRange(1), default=1, help="Images a step.")
@click.option("--steps", type=click.IntRange(1), default=5, help="Measured steps of each, after one that is not.")
@click.option("--threads", type=click.IntRange(1), default=THREADS, help="Of torch and of the kernels.")
@click.option("--task", type=click.Choice(["train", "generate"]), default="train", help="A training step, or an image.")
@click.option("--profile", is_flag=True, help="Print where the time of one more step goes, operation by operation.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write results here, *.jsonl.")
def step(
    methods: str | None,
    model: str,
    resolution: int,
    train_batch_size: int,
    steps: int,
    threads: int,
    task: Any,
    profile: bool,
    out: Path | None,
) -> None:
    """Measure a training step, or an image, of several methods beside each other, on random weights."""
    from intaglio.speed.render import STEPS
    from intaglio.speed.steps import measure

    work = Work(model, resolution, train_batch_size, threads, task)
    names = _names(methods) or (DEFAULT if task == "train" else DRAW)
    results = measure(names, work, steps, say=_say, profile=profile, path=out)
    _show(results, STEPS, out)


@command.command(name="kernels", context_settings=SHOWN)
@click.option("--suite", "suites", multiple=True, help=f"Of {', '.join(SUITES)}; may be given several times.  [all]")
@click.option("--threads", type=click.IntRange(1), default=1)
@click.option("--quick", is_flag=True, help="The first cases of each alone, a look.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Write results here, SUITE.jsonl.")
def kernels(suites: tuple[str, ...], threads: int, quick: bool, out: Path | None) -> None:
    """Measure single kernels, ours against torch's; and (suite `saved`) bytes saved for backward."""
    from intaglio.speed.suites import load, measure

    for suite in map(load, suites or SUITES):
        path = None if out is None else out / f"{suite.name}.jsonl"
        results = measure(suite, threads=threads, quick=quick, path=path, say=_say)
        _show(results, suite.columns, path)


@command.command(name="render", context_settings=SETTINGS)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def render(files: tuple[Path, ...]) -> None:
    """Print results FILES (*.jsonl) as Markdown."""
    from intaglio.speed.harness import read_results
    from intaglio.speed.suites import columns_of

    for file in files:
        results = read_results(file)
        _show(results, columns_of(results.run.suite), None)


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _say(text: str) -> None:
    click.echo(text, err=True)


def _show(results: Results, columns: Any, path: Path | None) -> None:
    from intaglio.files import write_text_atomic
    from intaglio.speed.render import page

    text = page(results, columns)
    click.echo(text)
    if path is not None:
        write_text_atomic(path.with_suffix(".md"), text)
        _say(f"written: {path}, {path.with_suffix('.md')}")
