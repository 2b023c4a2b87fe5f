"""`intaglio generate`."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import click

from intaglio.cli import SETTINGS
from intaglio.cli.console import make_console, quiet_libraries
from intaglio.errors import Problems, UserError
from intaglio.files import check_writable, write_new

EPILOG = """\b
Examples:
  intaglio generate --adapter out/dog --prompt "sks dog on the beach" --num_images 4
  intaglio generate --adapter out/dog --adapter out/style --prompt "a red car" --prompt "a cup" --seed 3
  intaglio generate --prompt "a noto emoji of a red apple"          (the base alone)

Several adapters share one base, which is loaded once; the time of each switch is printed. No image is overwritten."""


MOST_NAME_BYTES = 180
"""Of 255 that a file's name may have: the seed, a number and the temporary name come on top."""


@click.command(name="generate", context_settings=SETTINGS, epilog=EPILOG)
@click.option("--adapter", "adapters", multiple=True, type=click.Path(path_type=Path), help="folder of a training run")
@click.option("--prompt", "prompts", multiple=True, required=True, help="what to draw; may be given several times")
@click.option("--negative_prompt", help="what to avoid")
@click.option("--num_images", type=click.IntRange(1), default=1, show_default=True, help="images a prompt")
@click.option("--seed", type=click.IntRange(0, 2**62), default=0, show_default=True, help="image i uses seed + i")
@click.option("--num_inference_steps", type=click.IntRange(1, 1000), default=25, show_default=True)
@click.option("--guidance_scale", type=float, help="[the model family's]")
@click.option("--resolution", type=click.IntRange(8, 16384), help="side in pixels [the adapter's, or the model's]")
@click.option("--pretrained_model_name_or_path", "model", help="[the one that the adapter was trained on]")
@click.option("--mixed_precision", type=click.Choice(["no", "fp16", "bf16"]), help="[the adapter's]")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/images"), show_default=True)
def command(
    adapters: tuple[Path, ...],
    prompts: tuple[str, ...],
    negative_prompt: str | None,
    num_images: int,
    seed: int,
    num_inference_steps: int,
    guidance_scale: float | None,
    resolution: int | None,
    model: str | None,
    mixed_precision: str | None,
    out: Path,
) -> None:
    """Draw one or many prompts, as single files and as a grid."""
    console = make_console()
    if guidance_scale is not None and not math.isfinite(guidance_scale):
        raise UserError(f"guidance_scale must be a number, not {guidance_scale}")
    model, settings = _check(adapters, model)
    check_writable(out)

    from intaglio.checkpoints.load import load_pipeline
    from intaglio.sampling.session import Session
    from intaglio.training.encode import DTYPES

    quiet_libraries()
    trained_with = settings.get("mixed_precision")  # not known of a checkpoint, nor of a base alone
    precision = mixed_precision or trained_with or "no"
    if trained_with is not None and precision != trained_with:
        console.print(
            f"note: trained with mixed_precision={trained_with}, drawn with {precision}: "
            "images may differ slightly from the validation images"
        )
    began = time.perf_counter()
    pipeline = load_pipeline(model, torch_dtype=DTYPES[precision], quantize_to=settings.get("base_format"))
    session = Session(pipeline.to(_device()))
    console.print(f"loaded {model} in {time.perf_counter() - began:.1f} s")
    call = {
        "negative_prompt": negative_prompt,
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "side": resolution or settings.get("resolution"),
    }
    rows: list[list[Any]] = []
    labels = []
    for adapter in adapters or (None,):
        if adapter is not None:
            began = time.perf_counter()
            session.put(adapter)
            console.print(f"switched to {adapter} in {1000 * (time.perf_counter() - began):.0f} ms")
        name = "base" if adapter is None else adapter.resolve().name
        for prompt in prompts:
            rows.append(_draw(session, console, name, prompt, num_images, seed, out, call))
            labels.append(prompt if len(adapters) < 2 else f"{name}: {prompt}")
    console.print(f"grid: {_save_grid(rows, labels, out)}", soft_wrap=True)


def _draw(
    session: Any, console: Any, name: str, prompt: str, count: int, seed: int, out: Path, call: dict[str, Any]
) -> list[Any]:
    """Draw the images of one prompt, each saved as soon as it is there."""
    began = time.perf_counter()
    images, paths = [], []
    for number, image in enumerate(session.draw([prompt], seed, count=count, **call)):
        images.append(image)
        paths.append(_save(image, out / f"{_name(name, prompt)}-{seed + number}.png"))
    seconds = (time.perf_counter() - began) / count
    console.print(f"{prompt!r}: {seconds:.1f} s an image, {paths[0]}" + (" ..." if count > 1 else ""), soft_wrap=True)
    return images


def _name(adapter: str, prompt: str) -> str:
    """Of a file: the adapter and the prompt, as far as a file's name goes."""
    slug = "".join(c if c.isalnum() else "-" for c in prompt.lower())[:60].strip("-")
    return f"{adapter[:60]}-{slug}".encode()[:MOST_NAME_BYTES].decode(errors="ignore")


def _save(image: Any, path: Path) -> Path:
    """Under a name of its own: what is there stays."""
    return write_new(path, lambda temporary: image.save(temporary, format="PNG"))


def _save_grid(rows: list[list[Any]], labels: list[str], out: Path) -> Path:
    from intaglio.sampling.grid import contact_sheet

    return _save(contact_sheet(rows, row_labels=labels), out / "grid.png")


def _check(adapters: tuple[Path, ...], model: str | None) -> tuple[str, dict[str, Any]]:
    """The model to load and the settings of the first adapter; everything wrong with the input is raised here."""
    from intaglio.adapters.header import read_header
    from intaglio.checkpoints.inspect import inspect_model
    from intaglio.training.summary import read_summary

    problems: list[str] = []
    settings: dict[str, Any] = {}
    headers = []
    for adapter in adapters:
        try:
            header = read_header(adapter)
        except UserError as error:
            problems.append(str(error))
            continue
        headers.append((adapter, header))
        settings = settings or read_summary(adapter)
    model = model or settings.get("pretrained_model_name_or_path") or ("embedded" if not adapters else None)
    if model is None and not problems:
        problems.append(f"{adapters[0]} has no summary.json that names its model: give --pretrained_model_name_or_path")
    if not problems and model is not None:
        try:
            info = inspect_model(model)
            for adapter, header in headers:
                if header is not None:
                    info.check_adapter(adapter, header.base_hash)
                    settings.setdefault("base_format", None if header.base is None else header.base.format)
            if info.format is not None:
                settings["base_format"] = None
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise Problems("nothing can be drawn", problems)
    assert model is not None
    return model, settings


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
