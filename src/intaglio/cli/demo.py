"""`intaglio demo`."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import click

from intaglio.cli import SETTINGS
from intaglio.cli.console import make_console, quiet_libraries, two_columns

EPILOG = """\b
Examples:
  intaglio demo
  intaglio demo --method qlora --out out/demo-qlora

Writes before.png, after.png, summary.json, the quantized base and the adapter."""

IMAGES_PER_PROMPT = 4
GUIDANCE_SCALE = 2.0  # a small base wants little: at 5, what five photos taught goes to extremes
BASE_FORMAT = "int4"
PAIR_RATE, SCALE_RATE = 3e-3, 2e-2
ENCODERS = ("squeezenet1.1", "efficientnet-lite0")
"""Judges of likeness. The first one's scores are the demo's; the second sees blur more than shape, so look at both."""


@click.command(name="demo", context_settings=SETTINGS, epilog=EPILOG)
@click.option("--method", help="int8_lora, tuneqdm, peqa or qlora  [what train takes where none is named]")
@click.option("--max_train_steps", type=click.IntRange(1), default=150, show_default=True)
@click.option(
    "--learning_rate",
    type=float,
    help="[2e-2 for scales, 3e-3 for pairs: the embedded base is small and wants more than the methods' defaults, "
    "which are for Stable Diffusion]",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("out/demo"), show_default=True)
def command(method: str | None, max_train_steps: int, learning_rate: float | None, seed: int, out: Path) -> None:
    """Learn a sample subject, a cat, on the embedded base in 4 bits: quantize, draw, train, draw again, measure."""
    from intaglio.checkpoints.inspect import EMBEDDED, embedded_base
    from intaglio.config import build
    from intaglio.methods.registry import METHODS
    from intaglio.methods.settle import default_method_name
    from intaglio.training.recipe import Recipe

    console = make_console()
    embedded_base()
    if method is not None:
        _check_method(method, METHODS)

    from intaglio.checkpoints.load import denoiser_of, load_pipeline
    from intaglio.checkpoints.quantize import quantize_pipeline
    from intaglio.metrics.encoders import load_encoder
    from intaglio.metrics.subject import sample_cat
    from intaglio.training.run import train
    from intaglio.training.summary import generate_command, human_bytes, summary_rows

    quiet_libraries()
    began = time.perf_counter()
    task, encoders = sample_cat(), [load_encoder(name) for name in ENCODERS]
    console.print(f"Subject: {task.train_folder} (5 photos); prompts: {task.prompt!r}")
    report = quantize_pipeline(EMBEDDED, out / "base", format=BASE_FORMAT, overwrite=True)
    console.print(f"Quantized the base to {BASE_FORMAT}: {human_bytes(report.denoiser_bytes)} ({report.seconds:.0f} s)")

    pipeline = load_pipeline(out / "base")
    before = _draw(pipeline, task, seed, out / "before.png", "before: the quantized base")
    del pipeline
    recipe = build(
        Recipe,
        {
            "pretrained_model_name_or_path": str(out / "base"),
            **({} if method is None else {"method": method}),
            "instance_data_dir": task.train_folder,
            "instance_prompt": task.instance_prompt,
            "output_dir": out / "adapter",
            "max_train_steps": max_train_steps,
            "learning_rate": learning_rate or _rate(METHODS[method or default_method_name()]),
            "lr_scheduler": "cosine",
            "seed": seed,
        },
        "demo",
    )
    summary = train(recipe, console)

    from intaglio.adapters.attach import load_adapter

    pipeline = load_pipeline(out / "base")
    load_adapter(denoiser_of(pipeline)[1], out / "adapter")
    after = _draw(pipeline, task, seed, out / "after.png", f"after: {max_train_steps} steps of {summary.method}")

    likeness = {encoder.name: _likeness(task, before, after, encoder) for encoder in encoders}
    scores = likeness[ENCODERS[0]]
    summary = dataclasses.replace(
        summary,
        base_bytes=report.denoiser_bytes,
        seconds=time.perf_counter() - began,
        scores=scores,
        encoder=ENCODERS[0],
    )
    summary.save(out)
    rows = [
        *summary_rows(summary),
        *((f"subject ({name})", _in_words(found)) for name, found in likeness.items()),
        ("background colour", f"{scores['colour_before']:.0%} -> {scores['colour_after']:.0%} as prompted"),
        ("pictures", f"{out / 'before.png'}, {out / 'after.png'}"),
    ]
    console.print(two_columns("The demo", rows))
    console.print("Next:", f"{generate_command(summary)} --guidance_scale {GUIDANCE_SCALE:g}", soft_wrap=True)


def _rate(method: type[Any]) -> float:
    """Pairs have a rank."""
    return PAIR_RATE if "rank" in {field.name for field in dataclasses.fields(method)} else SCALE_RATE


def _check_method(name: str, methods: Any) -> None:
    from intaglio.errors import UserError
    from intaglio.methods.registry import build_method

    build_method(name, {})
    if not methods[name].needs_base:
        quantized = ", ".join(n for n, m in methods.items() if m.needs_base)
        raise UserError(f"the demo trains on a quantized base; {name} does not. Choose one of {quantized}")


def _likeness(task: Any, before: Any, after: Any, encoder: Any) -> dict[str, float]:
    from intaglio.metrics.scores import closed_gap
    from intaglio.metrics.subject import real_score, score_subject

    scored_before, scored_after = score_subject(task, before, encoder), score_subject(task, after, encoder)
    real = real_score(task, encoder, before["white"][0].width)
    return {
        "subject_before": scored_before["subject"],
        "subject_after": scored_after["subject"],
        "subject_real": real,
        "subject_gap_closed": closed_gap(scored_before["subject"], scored_after["subject"], real),
        "colour_before": scored_before["colour"],
        "colour_after": scored_after["colour"],
    }


def _in_words(found: dict[str, float]) -> str:
    return (
        f"{found['subject_before']:.3f} -> {found['subject_after']:.3f}, real photos {found['subject_real']:.3f} "
        f"({found['subject_gap_closed']:.0%} of the gap closed)"
    )


def _draw(pipeline: Any, task: Any, seed: int, path: Path, title: str) -> dict[str, list[Any]]:
    """Pictures of each background colour, and their sheet; the same noise before and after."""
    from intaglio.cli.generate import draw_images
    from intaglio.files import write_atomic
    from intaglio.metrics.grid import contact_sheet

    pipeline.set_progress_bar_config(disable=True)
    images = {
        colour: draw_images(
            pipeline, prompt, IMAGES_PER_PROMPT, seed, num_inference_steps=25, guidance_scale=GUIDANCE_SCALE
        )
        for colour, prompt in task.prompts().items()
    }
    sheet = contact_sheet(list(images.values()), row_labels=list(task.prompts().values()), title=title)
    write_atomic(path, lambda temporary: sheet.save(temporary, format="PNG"))
    return images
