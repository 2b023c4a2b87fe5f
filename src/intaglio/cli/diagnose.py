"""`intaglio diagnose`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from intaglio.cli import SETTINGS
from intaglio.cli.console import make_console, quiet_libraries
from intaglio.cli.options import SectionedCommand, given, recipe_options
from intaglio.config import build, read_toml
from intaglio.training.recipe import Recipe, into_sections, merged

EPILOG = """\b
Examples:
  intaglio diagnose --instance_data_dir photos --instance_prompt "a photo of sks dog"
  intaglio diagnose recipe.toml --gradient_bits 6 --report errors.md

A line for each trained layer: the ratio of signal to rounding noise of its eight products in dB, the cosine between
integer and float gradients, the share of gradient codes at the ends of their range and of gradients lost to 0, and
input channels over 6 times the median. The flags are those of `train`."""


@click.command(name="diagnose", cls=SectionedCommand, context_settings=SETTINGS, epilog=EPILOG)
@click.argument("recipe_file", type=click.Path(path_type=Path), required=False)
@click.option("--warmup", type=click.IntRange(min=0), default=20, show_default=True, help="steps before measuring")
@click.option("--batches", type=click.IntRange(min=1), default=2, show_default=True, help="batches to measure")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="write the table here, as Markdown")
@recipe_options()
def command(recipe_file: Path | None, warmup: int, batches: int, report: Path | None, **options: Any) -> None:
    """Measure what int8_lora loses to rounding in each layer, and say which layers to keep in float."""
    console = make_console()
    values = {} if recipe_file is None else read_toml(recipe_file)
    told = merged(into_sections(values), into_sections(given(options)))
    recipe = build(Recipe, merged(into_sections({"method": "int8_lora"}), told), subject=str(recipe_file or "diagnose"))

    from intaglio.files import write_text_atomic
    from intaglio.training.diagnose import diagnose, markdown

    quiet_libraries()
    reports = diagnose(recipe, warmup=warmup, batches=batches)
    table = markdown(reports)
    click.echo(table, nl=False)
    if report is not None:
        write_text_atomic(report, table)
    bad = [r.name for r in reports if r.wants_float]
    if bad:
        flags = " ".join(f"--float_layers {name}" for name in bad)
        console.print(
            f"{len(bad)} of {len(reports)} layers lose too much. To keep them in float:", flags, soft_wrap=True
        )
    else:
        console.print(f"All {len(reports)} layers are fit for integers.")
