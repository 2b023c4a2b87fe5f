"""Writes the machine as Verilog, with a testbench that checks itself on vectors of the definition."""

from __future__ import annotations

from pathlib import Path

from intaglio.files import write_text_atomic
from intaglio.rtl.design import Design
from intaglio.rtl.grid_verilog import grid_of_loops, grid_of_pes
from intaglio.rtl.verilog import machine_verilog, pe_verilog


def write_verilog(design: Design, folder: Path) -> list[Path]:
    """machine.v, pe.v, grid.v, and grid_loops.v, which stands for the two before in simulations."""
    return _write(
        folder,
        {
            "machine.v": machine_verilog(design),
            "pe.v": pe_verilog(design),
            "grid.v": grid_of_pes(design),
            "grid_loops.v": grid_of_loops(design),
        },
    )


def _write(folder: Path, texts: dict[str, str]) -> list[Path]:
    for name, text in texts.items():
        write_text_atomic(folder / name, text)
    return [folder / name for name in texts]
