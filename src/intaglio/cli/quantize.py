"""`intaglio quantize`."""

from __future__ import annotations

from pathlib import Path

import click

from intaglio.cli import SETTINGS
from intaglio.cli.console import make_console, quiet_libraries, two_columns

EPILOG = """\b
Examples:
  intaglio quantize embedded --format int4 --out base-int4
  intaglio quantize runwayml/stable-diffusion-v1-5 --variant fp16 --format int8 --out sd15-int8

Formats: int8, int4 (a scale per output channel), int4_g64 (per 64 weights), nf4; _asym adds zero points.
The folder loads with DiffusionPipeline.from_pretrained once intaglio is imported."""


@click.command(name="quantize", context_settings=SETTINGS, epilog=EPILOG)
@click.argument("model")
@click.option("--format", "format_name", default="int4", show_default=True, help="format of the frozen weights")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="folder to write")
@click.option(
    "--range_search",
    type=click.Choice(["absmax", "percentile", "mse"]),
    default="mse",
    show_default=True,
    help="how the range of each channel or group is found",
)
@click.option("--keep_float", multiple=True, help="starts of names of layers that stay float [first and last layers]")
@click.option("--revision", help="branch, tag or commit of a Hub id")
@click.option("--variant", help="variant of the weight files, e.g. fp16")
@click.option("--overwrite", is_flag=True, help="replace a folder that is there")
def command(
    model: str,
    format_name: str,
    out: Path,
    range_search: str,
    keep_float: tuple[str, ...],
    revision: str | None,
    variant: str | None,
    overwrite: bool,
) -> None:
    """Quantize the denoiser of MODEL (a Hub id, a folder, a .safetensors file, or 'embedded')."""
    from intaglio.checkpoints.inspect import inspect_model
    from intaglio.quantizers.formats import parse_format

    console = make_console()
    parse_format(format_name)
    inspect_model(model, revision=revision)  # wrong input is refused before torch's half second

    from rich.progress import Progress

    from intaglio.checkpoints.quantize import quantize_pipeline
    from intaglio.training.summary import human_bytes

    quiet_libraries()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("Quantizing", total=None)
        report = quantize_pipeline(
            model,
            out,
            format=format_name,
            range_search=range_search,  # pyright: ignore[reportArgumentType]
            keep_float=keep_float or None,
            revision=revision,
            variant=variant,
            overwrite=overwrite,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    console.print(
        two_columns(
            "Quantized",
            [
                ("layers", f"{report.num_layers} to {report.format}"),
                ("before", f"{human_bytes(report.float32_bytes)} in float32"),
                ("after", f"{human_bytes(report.denoiser_bytes)} on disk, with the float layers ({report.ratio:.3f})"),
                ("base hash", report.base_hash[:16]),
                ("time", f"{report.seconds:.1f} s"),
                ("peak memory", human_bytes(report.peak_memory_bytes)),
                ("folder", str(report.out)),
            ],
        )
    )
