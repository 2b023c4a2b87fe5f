"""`intaglio generate`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from intaglio.cli import SETTINGS
from intaglio.cli.console import make_console, quiet_libraries
from intaglio.errors import Problems, UserError

EPILOG = """\b
Examples:
  intaglio generate --adapter out/dog --prompt "sks dog on the beach" --num_images 4
  intaglio generate --adapter out/dog --adapter out/style --prompt "a red car" --prompt "a cup" --seed 3
  intaglio generate --prompt "a noto emoji of a red apple"          (the base alone)

Several adapters share one base, which is loaded once; the time of each switch is printed."""


@click.command(name="generate", context_settings=SETTINGS, epilog=EPILOG)
@click.option("--adapter", "adapters", multiple=True, type=click.Path(path_type=Path), help="folder of a training run")
@click.option("--prompt", "prompts", multiple=True, required=True, help="what to draw; may be given several times")
@click.option("--negative_prompt", help="what to avoid")
@click.option("--num_images", type=click.IntRange(1), default=1, show_default=True, help="images a prompt")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="image i uses seed + i")
@click.option("--num_inference_steps", type=click.IntRange(1), default=25, show_default=True)
@click.option("--guidance_scale", type=float, default=5.0, show_default=True)
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
    guidance_scale: float,
    model: str | None,
    mixed_precision: str | None,
    out: Path,
) -> None:
    """Draw one or many prompts, as single files and as a grid."""
    console = make_console()
    model, settings = _check(adapters, model)

    from intaglio.adapters.attach import load_adapter
    from intaglio.checkpoints.load import denoiser_of, load_pipeline
    from intaglio.metrics.grid import contact_sheet
    from intaglio.training.prepare import DTYPES

    quiet_libraries()
    trained_with = settings.get("mixed_precision")  # not known of a checkpoint, nor of a base alone
    precision = mixed_precision or trained_with or "no"
    if trained_with is not None and precision != trained_with:
        console.print(
            f"note: trained with mixed_precision={trained_with}, drawn with {precision}: "
            "pictures may differ slightly from the validation pictures"
        )
    began = time.perf_counter()
    pipeline = load_pipeline(model, torch_dtype=DTYPES[precision], quantize_to=settings.get("base_format"))
    pipeline.to(_device())
    pipeline.set_progress_bar_config(disable=True)
    console.print(f"loaded {model} in {time.perf_counter() - began:.1f} s")
    call = {
        "negative_prompt": negative_prompt,
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
    }
    rows: list[Any] = []
    labels = []
    handle = None
    denoiser = denoiser_of(pipeline)[1]
    for adapter in adapters or (None,):
        if adapter is not None:
            began = time.perf_counter()
            handle = _switch(handle, denoiser, adapter, load_adapter)
            console.print(f"switched to {adapter} in {1000 * (time.perf_counter() - began):.0f} ms")
        for prompt in prompts:
            began = time.perf_counter()
            images = draw_images(pipeline, prompt, num_images, seed, **call)
            seconds = (time.perf_counter() - began) / num_images
            name = "base" if adapter is None else adapter.name
            paths = _save(images, out, name, prompt, seed)
            console.print(f"{prompt!r}: {seconds:.1f} s an image, {paths[0]}" + (" ..." if num_images > 1 else ""))
            rows.append(images)
            labels.append(prompt if len(adapters) < 2 else f"{name}: {prompt}")
    sheet = out / "grid.png"
    contact_sheet(rows, row_labels=labels).save(sheet)
    console.print(f"grid: {sheet}")


def draw_images(pipeline: Any, prompt: str, count: int, seed: int, **call: Any) -> list[Any]:
    """Images of one prompt; image `i` depends on `seed + i` alone, not on `count`."""
    import torch

    generators = [torch.Generator().manual_seed(seed + i) for i in range(count)]
    return pipeline([prompt] * count, generator=generators, **_per_image(call, count)).images


def _per_image(call: dict[str, Any], count: int) -> dict[str, Any]:
    negative = call.get("negative_prompt")
    return {**call, "negative_prompt": None if negative is None else [negative] * count}


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


def _switch(handle: Any, denoiser: Any, adapter: Path, load_adapter: Any) -> Any:
    """Put `adapter` on: by copying values where the one before has the same shape, else by attaching anew."""
    from intaglio.adapters.header import read_header

    header = read_header(adapter)
    if handle is not None:
        same = header is not None and (header.method, header.options, header.layers) == (
            handle.method.name,
            handle.header().options,
            handle.layers,
        )
        if same:
            handle.load(adapter)
            return handle
        handle.detach()
    return load_adapter(denoiser, adapter)


def _save(images: list[Any], out: Path, name: str, prompt: str, seed: int) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    slug = "".join(c if c.isalnum() else "-" for c in prompt.lower())[:60].strip("-")
    paths = []
    for number, image in enumerate(images):
        path = out / f"{name}-{slug}-{seed + number}.png"
        image.save(path)
        paths.append(path)
    return paths


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
