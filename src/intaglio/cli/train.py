"""`intaglio train`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from intaglio.cli import SETTINGS
from intaglio.cli.console import make_console, quiet_libraries, two_columns
from intaglio.cli.options import SectionedCommand, given, recipe_options
from intaglio.config import build, read_toml
from intaglio.errors import UserError
from intaglio.training.recipe import Recipe, into_sections, merged

EPILOG = """\b
Examples:
  intaglio train --instance_data_dir photos --instance_prompt "a photo of sks dog" --output_dir out/dog
  intaglio train recipe.toml --learning_rate 3e-4
  intaglio train --method qlora --rank 8 --base nf4 --instance_data_dir photos --instance_prompt "sks dog"
  intaglio train recipe.toml --trace_step 2 --hardware cdm-qta-64x64
  accelerate launch --num_processes 2 -m intaglio.cli train recipe.toml

A flag given here wins over the recipe. Hyphens and underscores are the same."""


@click.command(name="train", cls=SectionedCommand, context_settings=SETTINGS, epilog=EPILOG)
@click.argument("recipe_file", type=click.Path(path_type=Path), required=False)
@click.option("--hardware", help="with --trace_step: what a step would cost on this accelerator (a name or TOML file)")
@recipe_options()
def command(recipe_file: Path | None, hardware: str | None, **options: Any) -> None:
    """Fine-tune a text-to-image model on your photos, as RECIPE_FILE (TOML), the flags, or both say."""
    console = make_console()
    values = {} if recipe_file is None else read_toml(recipe_file)
    values = merged(into_sections(values), into_sections(given(options)))
    recipe = build(Recipe, values, subject=str(recipe_file or "train"))

    design = None
    if hardware is not None:
        from intaglio.accelerator.hardware import load_hardware

        design = load_hardware(hardware)
        if recipe.output.trace_step is None:
            raise UserError("--hardware costs a step that was recorded; add --trace_step 2")

    from intaglio.training.run import train
    from intaglio.training.summary import generate_command, summary_rows

    quiet_libraries()
    summary = train(recipe, console)
    if design is not None:
        summary = with_accelerator(summary, design)
    console.print(two_columns("Done", summary_rows(summary)))
    console.print("Next:", generate_command(summary), soft_wrap=True)


def with_accelerator(summary: Any, design: Any) -> Any:
    """The summary, and the output folder's files, with what the recorded step would cost on `design`."""
    from intaglio.accelerator.simulate import simulate
    from intaglio.accelerator.workload import load_trace_workload
    from intaglio.training.run import TRACE_FILE
    from intaglio.training.summary import write_card

    folder = Path(summary.output_dir)
    step = simulate(load_trace_workload(folder / TRACE_FILE, design.array.integer_bits), design)
    cost = {
        "hardware": design.name,
        "latency_ms": step.latency_ms,
        "energy_mj": [float(value) for value in step.energy_mj],
        "overall_utilization": step.overall_utilization,
    }
    summary = dataclasses.replace(summary, accelerator=cost)
    summary.save(folder)
    write_card(folder, summary)
    return summary
