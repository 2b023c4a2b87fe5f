"""`intaglio compare-hardware`: a design over its baselines, for methods, ranks and models."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

EPILOG = """\b
Examples:
  intaglio compare-hardware --out out/hardware
  intaglio compare-hardware --hardware intaglio-64x64 --models sd15 --methods lora,full --ranks 16 --out out/hardware

`intaglio simulate --help` names the shipped hardware."""


def _numbers(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in value.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise click.BadParameter(f"expected positive integers with commas, as 4,16,64; got {value!r}")
    return numbers


@click.command(
    name="compare-hardware",
    context_settings={"token_normalize_func": lambda name: name.replace("-", "_"), "show_default": True},
    epilog=EPILOG,
)
@click.option("--hardware", default="cdm-qta-64x64", help="A hardware TOML file, or the name of a shipped one.")
@click.option("--models", default="sd15,sdxl,dit", help="Published models, with commas.")
@click.option("--methods", default="lora", help="lora, full, scales; with commas.")
@click.option("--ranks", default="4,16,64", callback=_numbers, help="LoRA ranks, with commas.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for tables and page."
)
def command(hardware: str, models: str, methods: str, ranks: tuple[int, ...], out: Path) -> None:
    """Speed, energy and area over each baseline, beside the paper's figures and published chips."""
    from intaglio.accelerator.comparison import cases_of, write_comparison
    from intaglio.accelerator.hardware import load_hardware

    design = load_hardware(hardware)
    cases = cases_of(_names(models), _names(methods), ranks)
    lines = write_comparison(design, cases, out, shlex.join(["intaglio", *sys.argv[1:]]))
    for line in lines:
        click.echo(line)
    click.echo(f"written: {out}/ratios.csv, chips.csv, comparison.json, comparison.html")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
