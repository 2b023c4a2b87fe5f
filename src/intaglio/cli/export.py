"""`intaglio export`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from intaglio.cli import SETTINGS
from intaglio.cli.console import make_console, two_columns
from intaglio.errors import UserError

EPILOG = """\b
Examples:
  intaglio export out/dog --to comfyui --out dog.safetensors
  intaglio export out/dog --to peft --out dog-peft

alpha means the same everywhere: it is written for each layer where the format has it, and lies in the weights where
readers would not look."""


@click.command(name="export", context_settings=SETTINGS, epilog=EPILOG)
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option("--to", "format_name", required=True, help="diffusers, peft, kohya or comfyui; or one from a plug-in")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="file or folder to write")
@click.option("--base", "model", help="its model, where the file does not tell the family")
@click.option("--trigger", help="trigger words to write beside it [the instance prompt of its training run]")
@click.option("--overwrite", is_flag=True, help="replace a file that is there")
def command(
    adapter: Path, format_name: str, out: Path, model: str | None, trigger: str | None, overwrite: bool
) -> None:
    """Write ADAPTER (a folder or file, of any format) as a file for other programs."""
    from dataclasses import replace

    from intaglio.adapters.describe import describe_adapter
    from intaglio.adapters.formats import find_format, format_named
    from intaglio.adapters.header import find_file

    console = make_console()
    format = format_named(format_name)
    file = find_file(adapter)
    source = find_format(file)  # rubbish is refused before torch's half second
    path = out if out.suffix == ".safetensors" else out / format.file_name
    if path.exists() and not overwrite:
        raise UserError(f"{path} is there already; name another, or pass --overwrite")
    if format.name == "peft" and path.name != format.file_name:
        raise UserError(f"{path}: PEFT looks for {format.file_name} and its configuration in a folder; name a folder")

    from intaglio.adapters.training_metadata import with_trigger

    state = source.read(file, None)
    if model is not None:
        from intaglio.checkpoints.inspect import inspect_model

        state = replace(state, model_class=inspect_model(model).denoiser_class)
    prompt = trigger or trigger_beside(file)
    if prompt:
        state = replace(state, metadata=with_trigger(state.metadata, prompt))
    format.write(path, state)
    told = describe_adapter(path)
    rows = [
        ("file", f"{path} ({path.stat().st_size / 2**20:.1f} MiB)"),
        ("format", f"{told.format}: {format.summary}"),
        ("layers", f"{told.layers}, in {', '.join(told.components)}"),
        ("rank", told.ranks),
        ("alpha", told.alphas),
        ("trigger", told.trigger or "-"),
    ]
    console.print(two_columns("Exported", rows))
    console.print("Look at it:", f"intaglio inspect {shlex.quote(str(path))}", markup=False, soft_wrap=True)


def trigger_beside(file: Path) -> str | None:
    """The instance prompt of the training run whose folder this is."""
    from intaglio.training.summary import read_summary

    try:
        prompt = read_summary(file).get("instance_prompt")
    except (OSError, ValueError, AttributeError):
        return None
    return prompt if isinstance(prompt, str) else None
