"""`intaglio import`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from intaglio.cli import SETTINGS
from intaglio.cli.console import make_console, two_columns
from intaglio.errors import UserError

EPILOG = """\b
Examples:
  intaglio import dog.safetensors --base sd15-int4 --out out/dog
  intaglio import dog-peft --base sd15-int4 --out out/dog

Read are LoRA and LoCon (convolutions) by diffusers, PEFT, kohya's scripts and ComfyUI, with ranks and alphas that
differ by layer. DoRA, LoHa and LoKr are refused."""


@click.command(name="import", context_settings=SETTINGS, epilog=EPILOG)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--base", "model", required=True, help="model that it is for: a folder or Hub id, float or quantized")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="folder to write")
@click.option("--revision", help="branch, tag or commit of a Hub id")
@click.option("--overwrite", is_flag=True, help="replace an adapter that is there")
def command(file: Path, model: str, out: Path, revision: str | None, overwrite: bool) -> None:
    """Take the LoRA in FILE as an adapter of a base: `generate` draws with it, `train --adapter` goes on from it."""
    from intaglio.adapters.formats import find_format
    from intaglio.adapters.header import LORA_FILE, find_file
    from intaglio.checkpoints.inspect import inspect_model, read_component_config

    console = make_console()
    found = find_file(file)
    source = find_format(found).name
    if (out / LORA_FILE).exists() and not overwrite:
        raise UserError(f"{out / LORA_FILE} is there already; name another folder, or pass --overwrite")
    info = inspect_model(model, revision=revision)

    from intaglio.adapters.adopt import adopt
    from intaglio.checkpoints.quantization_config import IntaglioConfig
    from intaglio.checkpoints.shapes import empty_denoiser, shape_of

    base = None
    if info.format is not None and info.denoiser is not None:
        base = IntaglioConfig(**read_component_config(info, info.denoiser, revision)["quantization_config"]).record
    adopted = adopt(found, out, empty_denoiser(shape_of(model, revision)), base, info.base_hash)
    _, part = adopted.state.denoiser or ("", None)
    assert part is not None
    rank = next(iter(part.low_rank.values())).rank
    rows = [
        ("from", f"{found}, {source}"),
        ("to", str(adopted.path)),
        ("layers", f"{len(part.low_rank)}, rank {rank}"),
        ("base", f"{model} ({info.format or 'float'})"),
    ]
    if adopted.left_out:
        rows.append(("left out", f"{', '.join(adopted.left_out)}: only the denoiser is trained here"))
    console.print(two_columns("Imported", rows))
    prompt = "a photo"
    next_command = ["intaglio", "generate", "--adapter", str(out), "--pretrained_model_name_or_path", model]
    console.print("Next:", shlex.join([*next_command, "--prompt", prompt]), markup=False, soft_wrap=True)
