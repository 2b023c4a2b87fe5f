"""`intaglio simulate`: what a step costs on an accelerator."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from intaglio.accelerator.csv_workload import load_csv_workload
from intaglio.accelerator.dataflow import OVERLAPS
from intaglio.accelerator.hardware import PLAIN, Hardware, load_hardware, shipped_hardware
from intaglio.accelerator.simulate import StepCost, simulate
from intaglio.accelerator.tables import summary_of, write_tables
from intaglio.accelerator.workload import Workload, load_trace_workload, workload_of_trace

CHOICES = ("best", "weight_stationary", "output_stationary")


def underscores(name: str) -> str:
    """Hyphens and underscores are the same."""
    return name.replace("-", "_")


@click.command(
    name="simulate",
    context_settings={"token_normalize_func": underscores, "show_default": True},
    epilog=f"Shipped hardware: {', '.join(shipped_hardware())}.",
)
@click.option("--trace", type=click.Path(path_type=Path), help="A step that `intaglio trace` recorded (JSON Lines).")
@click.option(
    "--workload",
    type=click.Path(path_type=Path),
    help="A CSV with the columns M,N,K (optional: name,batch,count,bits).",
)
@click.option(
    "--model", type=click.Choice(["sd15", "sdxl", "dit"]), help="A LoRA step of a published model, from its shapes."
)
@click.option("--rank", type=click.IntRange(1), default=16, help="LoRA rank of --model.")
@click.option("--hardware", required=True, help="A hardware TOML file, or the name of a shipped one.")
@click.option("--dataflow", type=click.Choice(CHOICES), default="best", help="Chosen per product, or fixed.")
@click.option("--overlap", type=click.Choice(OVERLAPS), help="Instead of the hardware file's.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for tables and report."
)
@click.option("--report/--no_report", default=True, help="Write report.html.")
def command(
    trace: Path | None,
    workload: Path | None,
    model: str | None,
    rank: int,
    hardware: str,
    dataflow: str,
    overlap: str | None,
    out: Path,
    report: bool,
) -> None:
    """Cost a training step on an accelerator: cycles, utilization, traffic, energy, area."""
    if sum(source is not None for source in (trace, workload, model)) != 1:
        raise click.UsageError("give exactly one of --trace FILE, --workload FILE.csv and --model NAME")
    design = load_hardware(hardware)
    if overlap is not None:
        design = design.replaced(array__overlap=overlap)
    if workload is not None:
        work = load_csv_workload(workload)
        design = _row_by_row(design) if dataflow != "best" else design
    elif trace is not None:
        work = load_trace_workload(trace, design.array.integer_bits)
    else:
        work = _model_workload(model or "", rank, design)
    step = simulate(work, design, dataflow)  # type: ignore[arg-type]
    rows = write_tables(step, out)
    if report:
        from intaglio.accelerator.report import write_report

        write_report(step, rows, out / "report.html", _typed())
    _say(step, work, out, report)


def _row_by_row(design: Hardware) -> Hardware:
    """Every row on the whole array, its streamed dimension uncut: cycles are the closed form's."""
    return design.replaced(array__partition="1x1", schedule=PLAIN.model_dump())


def _model_workload(model: str, rank: int, design: Hardware) -> Workload:
    from intaglio.accelerator.model_steps import model_step

    return workload_of_trace(model_step(model, rank, bits=16 if design.array.number == "float" else 8))


def _typed() -> str:
    return shlex.join(["intaglio", *sys.argv[1:]])


def _say(step: StepCost, work: Workload, out: Path, report: bool) -> None:
    s = summary_of(step)
    array = step.hardware.array
    low, typical, high = s["energy_mj"]
    wide = int((work.products.left_bits > array.operand_bits).sum())
    if wide and array.number == "integer":
        click.echo(
            f"note: {wide:,} products were recorded with wider operands; this array runs them at "
            f"{array.operand_bits} bits"
        )
    files = "operations.csv, layers.csv, passes.csv, summary.json" + (", report.html" if report else "")
    for name, value in (
        ("step", f"{work.name}, {len(step.labels):,} products, {work.macs / 1e9:,.2f} GMAC"),
        ("hardware", f"{step.hardware.name}, {array.rows} x {array.cols}, overlap {array.overlap}"),
        ("latency", f"{step.latency_cycles:,.0f} cycles, {step.latency_ms:,.4g} ms"),
        ("utilization", f"{step.overall_utilization:.1%} overall"),
        ("energy", f"{typical:,.4g} mJ ({low:,.4g} .. {high:,.4g})"),
        ("DRAM", f"{step.dram_bytes / 1e6:,.1f} MB"),
        ("area", f"{s['area_mm2'][1]:.3g} mm2 ({s['area_mm2'][0]:.3g} .. {s['area_mm2'][2]:.3g})"),
        ("written", f"{out}/{files}"),
    ):
        click.echo(f"{name:<13}{value}")
