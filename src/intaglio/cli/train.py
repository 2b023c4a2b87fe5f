"""`intaglio train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from intaglio.cli import SETTINGS
from intaglio.cli.console import make_console, quiet_libraries, two_columns
from intaglio.cli.options import given, options_of
from intaglio.config import build, read_toml
from intaglio.training.recipe import Recipe

EPILOG = """\b
Examples:
  intaglio train --instance_data_dir photos --instance_prompt "a photo of sks dog" --output_dir out/dog
  intaglio train recipe.toml --learning_rate 3e-4
  intaglio train --method qlora --rank 8 --base nf4 --instance_data_dir photos --instance_prompt "sks dog"
  accelerate launch --num_processes 2 -m intaglio.cli train recipe.toml

A flag given here wins over the recipe. Hyphens and underscores are the same."""


@click.command(name="train", context_settings=SETTINGS, epilog=EPILOG)
@click.argument("recipe_file", type=click.Path(path_type=Path), required=False)
@options_of(Recipe)
def command(recipe_file: Path | None, **options: Any) -> None:
    """Fine-tune a text-to-image model on your photos, as RECIPE_FILE (TOML), the flags, or both say."""
    console = make_console()
    values = {} if recipe_file is None else read_toml(recipe_file)
    values = {key.replace("-", "_"): value for key, value in values.items()}
    recipe = build(Recipe, {**values, **given(options)}, subject=str(recipe_file or "train"))

    from intaglio.training.run import train
    from intaglio.training.summary import generate_command, summary_rows

    quiet_libraries()
    summary = train(recipe, console)
    console.print(two_columns("Done", summary_rows(summary)))
    console.print("Next:", generate_command(summary), soft_wrap=True)
