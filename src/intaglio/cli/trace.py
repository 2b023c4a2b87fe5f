"""`intaglio trace`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from intaglio.cli import SETTINGS
from intaglio.errors import UserError

EPILOG = """\b
Examples:
  intaglio trace --shapes sd15 --method lora --rank 16 --out sd15.jsonl
  intaglio trace --shapes flux --method qlora --base nf4 --out flux.jsonl.gz
  intaglio trace --pretrained_model_name_or_path embedded --method tuneqdm --out step.jsonl --export scalesim

No weights are loaded: a step depends on shapes alone. To record a step of a real run, see
`intaglio train --trace_step`."""


@click.command(name="trace", context_settings=SETTINGS, epilog=EPILOG)
@click.option("--pretrained_model_name_or_path", "source", help="Hub id or folder; only its JSON files are read")
@click.option("--revision", help="branch, tag or commit of a Hub id")
@click.option("--shapes", help="instead of a model: a published one, e.g. sd15, sdxl, sd3 or flux")
@click.option("--method", default="lora", show_default=True, help="what is trained, as in `intaglio train`")
@click.option("--base", help="format of the frozen weights, e.g. int8, int4, nf4")
@click.option("--rank", type=int, help="rank of the low-rank pairs")
@click.option("--lora_alpha", type=float, help="scaling = alpha / rank")
@click.option("--num_intervals", type=int, help="timestep intervals (tuneqdm)")
@click.option("--compute", type=click.Choice(["auto", "integer", "float"]), default="auto", show_default=True)
@click.option("--targets", multiple=True, help="ends of names of the layers to train; all: every one")
@click.option("--keep_float", multiple=True, help="starts of names of layers that are not quantized")
@click.option("--resolution", type=click.IntRange(8), help="side of the images in pixels [the model's]")
@click.option("--batch", "batch_size", type=click.IntRange(1), default=1, show_default=True)
@click.option("--gradient_checkpointing/--no_gradient_checkpointing", default=False, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help=".jsonl or .jsonl.gz")
@click.option(
    "--export",
    type=click.Choice(["csv", "scalesim", "zigzag"]),
    multiple=True,
    help="also write the products for another tool, beside the trace",
)
def command(source: str | None, revision: str | None, shapes: str | None, out: Path, **options: Any) -> None:
    """Record every operation of one training step, from the shapes of a model: any method, no weights, no GPU."""
    if (source is None) == (shapes is None):
        raise UserError("give exactly one of --pretrained_model_name_or_path MODEL and --shapes NAME")

    from intaglio.checkpoints.shapes import shape_named, shape_of
    from intaglio.trace.export import SUFFIXES, export_trace
    from intaglio.trace.schema import write_trace

    shape = shape_named(shapes) if shapes is not None else shape_of(source or "", revision)
    exports = options.pop("export")
    trace = record_shape(shape, **options)
    number = write_trace(out, trace.header, trace.events)
    step = trace.header.step
    click.echo(f"step         {trace.header.model}, {trace.header.method}, {step['trained_parameters']:,} trained")
    products = sum(event.is_product for event in trace.events)
    click.echo(f"operations   {number:,}, {products:,} products, {trace.macs / 1e9:,.2f} GMAC")
    for pass_name in ("output", "grad_input", "grad_weight"):
        macs = sum(e.macs for e in trace.events if e.pass_name == pass_name)
        click.echo(f"{pass_name:<13}{macs / 1e9:,.2f} GMAC")
    for name, calls in step.get("unknown_operators", {}).items():
        click.echo(f"note: {calls:,} calls of {name} were not understood, and are recorded as vector work", err=True)
    click.echo(f"written      {out}")
    for fmt in exports:
        path = out.with_name(out.name.split(".jsonl")[0] + SUFFIXES[fmt])
        click.echo(f"             {path}, {export_trace(trace, path, fmt):,} products")


def record_shape(
    shape: Any,
    *,
    method: str,
    base: str | None = None,
    rank: int | None = None,
    lora_alpha: float | None = None,
    num_intervals: int | None = None,
    compute: Any = "auto",
    targets: tuple[str, ...] = (),
    keep_float: tuple[str, ...] = (),
    resolution: int | None = None,
    batch_size: int = 1,
    gradient_checkpointing: bool = False,
) -> Any:
    """The trace of one step (forward, squared error, backward, AdamW) of `method` on a denoiser without weights."""
    import torch

    from intaglio.adapters.attach import attach
    from intaglio.checkpoints.shapes import empty_denoiser, empty_inputs
    from intaglio.families.registry import denoisers_of
    from intaglio.methods.registry import build_method
    from intaglio.methods.settle import settle
    from intaglio.quantizers.base import Base
    from intaglio.trace.recorder import record

    given = {"rank": rank, "alpha": lora_alpha, "num_intervals": num_intervals}
    built = build_method(method, {key: value for key, value in given.items() if value is not None})
    keep = keep_float or denoisers_of(shape.denoiser_class).keep_float
    asked = Base(base, "absmax", keep)
    settled = settle(built, base=asked, compute=compute, present=shape.format, device="meta", source=shape.name)
    denoiser = empty_denoiser(shape, None if settled.base is None else settled.base.format, keep)
    side = resolution or shape.resolution
    inputs = empty_inputs(denoiser, shape, side, batch_size)
    with torch.device("meta"):
        adapter = attach(denoiser, built, targets=targets or None, compute=settled.compute)
    denoiser.train()
    if gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
    optimizer = torch.optim.AdamW(adapter.parameters())

    def step() -> None:
        predicted = denoiser(**inputs)[0]
        if isinstance(predicted, list):  # images of their own sizes, as Z-Image's
            predicted = torch.stack(predicted)
        torch.nn.functional.mse_loss(predicted, torch.empty_like(predicted)).backward()
        optimizer.step()

    facts = {"resolution": side, "batch_size": batch_size, "gradient_checkpointing": gradient_checkpointing}
    return record(
        step,
        model=shape.name,
        method=method,
        base=None if settled.base is None else settled.base.format,
        compute=settled.compute,
        **{k: v for k, v in given.items() if v is not None},
        **facts,
    )
