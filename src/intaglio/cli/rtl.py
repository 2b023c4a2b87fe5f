"""`intaglio rtl`: the array of a hardware file as Verilog."""

from __future__ import annotations

from pathlib import Path

import click

from intaglio.accelerator.hardware import Hardware, load_hardware
from intaglio.cli import SETTINGS
from intaglio.errors import Problems, UserError
from intaglio.rtl.design import HALF, Design


@click.command(name="rtl", context_settings=SETTINGS)
@click.option("--hardware", required=True, help="A hardware TOML file, or the name of a shipped one.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for Verilog and vectors."
)
def command(hardware: str, out: Path) -> None:
    """Write the array as Verilog, with a testbench that checks itself: PEs, buffers, requantizer, controller."""
    described = load_hardware(hardware)
    design = design_of(described)
    try:
        from intaglio.rtl.export import write_verilog
        from intaglio.rtl.testbench import write_testbench
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; pip install 'intaglio[rtl]'") from error
    files = write_verilog(design, out) + write_testbench(design, out)
    click.echo(f"hardware     {described.name}, {design.rows} x {design.cols}, overlap {design.overlap}")
    for name in without_rtl(described):
        click.echo(f"note: {name} has no RTL; the Verilog is without it", err=True)
    click.echo(f"written      {out}: {', '.join(path.name for path in files)}")
    click.echo(f"check        cd {out} && iverilog -g2005 -o machine testbench.v machine.v grid.v pe.v && vvp machine")


def design_of(hardware: Hardware) -> Design:
    """The machine of a hardware file. Buffers are cut to the words that an instruction can address.

    Raises:
        Problems: an array that has no RTL.
    """
    array, buffers = hardware.array, hardware.buffers
    problems = []
    if array.number != "integer":
        problems.append(f"array.number is {array.number!r}; the PE in RTL multiplies integers")
    if array.overlap == "none":
        problems.append("array.overlap is 'none', SCALE-Sim's count; an array has serial, double_buffered, wavefront "
                        "or shadow")  # fmt: skip
    if problems:
        raise Problems(hardware.name, problems)
    halves = 2 if buffers.double_buffered else 1
    assert array.overlap != "none"

    def words(size_bytes: int, bits: int) -> int:
        return min(HALF, size_bytes * 8 // (bits * halves))

    return Design(
        array.rows,
        array.cols,
        modes=array.modes,
        overlap=array.overlap,
        operand_bits=array.operand_bits,
        sum_bits=array.accumulator_bits,
        left_words=words(buffers.input.size_bytes, array.rows * array.operand_bits),
        right_words=words(buffers.weight.size_bytes, array.cols * array.operand_bits),
        result_words=words(buffers.output.size_bytes, array.cols * array.accumulator_bits),
        halves=halves,
        transposers=array.transposers,
    )


def without_rtl(hardware: Hardware) -> list[str]:
    """What the hardware file has and the Verilog has not."""
    found = []
    if hardware.array.partition_side > 1:
        found.append(f"array.partition {hardware.array.partition}")
    if hardware.schedule.fused_attention:
        found.append("schedule.fused_attention")
    others = sorted(set(hardware.vector.fused) - {"quantize", "requantize"})
    if others:
        found.append(f"vector.fused {', '.join(others)}")
    return [*found, "dram"]
