"""`intaglio inspect`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from intaglio.cli import SETTINGS
from intaglio.errors import UserError

EPILOG = """\b
Examples:
  intaglio inspect out/dog
  intaglio inspect dog.safetensors
  intaglio inspect sd15-int4

Only headers are read: no weights are loaded."""


@click.command(name="inspect", context_settings=SETTINGS, epilog=EPILOG)
@click.argument("path", type=click.Path(path_type=Path))
def command(path: Path) -> None:
    """Say what PATH is (an adapter, a model, a checkpoint of a run), and what can be done with it."""
    from rich.markup import escape

    from intaglio.cli.console import make_console, two_columns

    title, rows, commands = describe(path)
    console = make_console()
    console.print(two_columns(title, [(key, escape(value)) for key, value in rows if value]))
    for words in commands:
        console.print("  " + shlex.join(words), markup=False, soft_wrap=True)


Described = tuple[str, list[tuple[str, str]], list[list[str]]]
"""Title, rows of the table, commands to go on with."""


def describe(path: Path) -> Described:
    """
    Raises:
        UserError: nothing that is known, in one line.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_dir():
        if (path / "model_index.json").is_file():
            return _pipeline(path)
        if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
            raise UserError(f"{path}: one component of a pipeline; name the folder above it, with model_index.json")
        return _adapter(path)
    from intaglio.checkpoints.recognize import refuse_pickles

    refuse_pickles(path)
    with path.open("rb") as file:
        if file.read(4) == b"GGUF":
            return _gguf(path)
    from intaglio.adapters.formats import find_format

    try:
        find_format(path)
    except UserError as error:
        return _single_file(path, error)
    return _adapter(path)


def _adapter(path: Path) -> Described:
    from intaglio.adapters.describe import describe_adapter

    told = describe_adapter(path)
    rows = [
        ("file", str(told.path)),
        ("size", _size(told.path.stat().st_size)),
        ("format", told.format),
        ("kind", told.method),
        ("layers", f"{told.layers}, {told.parameters:,} numbers, in {', '.join(told.components)}"),
        ("rank", told.ranks),
        ("alpha", told.alphas),
        ("trigger", told.trigger or ""),
        ("model", told.model or "not said"),
        ("base", told.base or "float, or not said"),
        ("base hash", (told.base_hash or "")[:16]),
    ]
    place = str(path)
    base = "MODEL" if told.base is None else f"MODEL-{told.base}"
    if told.base is not None or told.format == "intaglio":
        commands = [["intaglio", "generate", "--adapter", place, "--prompt", told.trigger or "a photo"]]
    else:
        commands = [["intaglio", "import", place, "--base", base, "--out", "out/imported"]]
    if told.ranks != "-":
        commands.append(["intaglio", "export", place, "--to", "comfyui", "--out", "adapter.safetensors"])
    return "Adapter", rows, commands


def _pipeline(path: Path) -> Described:
    from intaglio.checkpoints.inspect import inspect_model

    info = inspect_model(path)
    size = sum(file.stat().st_size for file in (path / str(info.denoiser)).glob("*.safetensors"))
    rows = [
        ("folder", str(path)),
        ("pipeline", info.pipeline_class or ""),
        ("denoiser", f"{info.denoiser}, {info.denoiser_class}, {_size(size)}"),
        (
            "weights",
            "float" if info.format is None and info.source_name == "float" else info.format or info.source_name,
        ),
        ("base hash", (info.base_hash or "")[:16]),
    ]
    photos = ["--instance_data_dir", "photos", "--instance_prompt", "a photo of sks dog", "--output_dir", "out/dog"]
    commands = [["intaglio", "train", "--pretrained_model_name_or_path", str(path), *photos]]
    if info.source_name == "float":
        commands.insert(0, ["intaglio", "quantize", str(path), "--format", "int4", "--out", f"{path.name}-int4"])
    return "Model", rows, commands


def _single_file(path: Path, error: UserError) -> Described:
    from intaglio.checkpoints.recognize import recognize

    found = recognize(path)
    if found.family is None:
        raise error
    rows = [
        ("file", str(path)),
        ("size", _size(path.stat().st_size)),
        ("model", found.family),
        ("weights", f"{found.stored_as}, {found.tensors} tensors"),
    ]
    return "Model in a single file", rows, [["intaglio", "quantize", str(path), "--out", f"{path.stem}-int4"]]


def _gguf(path: Path) -> Described:
    from intaglio.checkpoints.gguf_file import read_gguf_header
    from intaglio.checkpoints.recognize import family_of

    header = read_gguf_header(path)
    rows = [
        ("file", str(path)),
        ("size", _size(path.stat().st_size)),
        ("model", family_of(header.tensors) or str(header.values.get("general.architecture", "not known here"))),
        ("weights", f"GGUF: {header.types()}, {len(header.tensors)} tensors"),
    ]
    return "Model in a GGUF file", rows, []


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
