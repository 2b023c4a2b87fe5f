"""Area of a PE and of a requantization lane from synthesis, beside what the accelerator model takes for them.

python benchmarks/rtl/area.py      # part of `make rtl`; FPGA routing and timing where their tools are installed
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from intaglio.accelerator.area import pe_area_um2
from intaglio.accelerator.constants import area_constant
from intaglio.accelerator.hardware import load_hardware
from intaglio.errors import UserError
from intaglio.rtl.array import Grid
from intaglio.rtl.design import MODES, Design
from intaglio.rtl.lane import Dither, ScanLane, ShiftLane
from intaglio.rtl.pe import PE
from intaglio.rtl.synthesize import cell_area, fpga_cells, routed_ice40_mhz, shortest_period_ns

OSU018 = Path("/usr/share/qflow/tech/osu018/osu018_stdcells.lib")
"""Debian's qflow-tech-osu018: 180 nm."""

PES = {
    f"{name}, {registers}": Design(2, 2, modes=modes, overlap=overlap)
    for registers, overlap in (("one register", "wavefront"), ("two registers", "shadow"))
    for name, modes in (("WS only", MODES[:1]), ("OS only", MODES[1:]), ("both", MODES))
}
LANES = {"scan lane": ScanLane, "shift lane": ShiftLane}


def model_um2(design: Design) -> float:
    """Cells of a PE in the accelerator model, at 45 nm."""
    array = load_hardware("cdm-qta-64x64").array.model_copy(update={"modes": design.modes, "overlap": design.overlap})
    return float((pe_area_um2(array) * area_constant("cell_utilization"))[1])


def main() -> None:
    start = time.perf_counter()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    one = cell_area(PE(PES["both, one register"]))
    print(f"area at 45 nm, cells alone (area45.lib, synth -booth), commit {commit}\n")
    print(f"{'':<24}{'um2':>8}{'PEs':>7}{'model um2':>11}{'model / RTL':>13}")
    for name, design in PES.items():
        area, model = cell_area(PE(design)), model_um2(design)
        print(f"{name:<24}{area:>8.0f}{area / one:>7.2f}{model:>11.0f}{model / area:>13.2f}")
    narrow = cell_area(PE(Design(2, 2, overlap="wavefront", sum_bits=24)))
    print(f"{'both, sums of 24 bits':<24}{narrow:>8.0f}{narrow / one:>7.2f}")
    for name, area in [*((n, cell_area(lane(32))) for n, lane in LANES.items()), ("dither", cell_area(Dither()))]:
        print(f"{name:<24}{area:>8.0f}{area / one:>7.2f}")
    print(f"\n{time.perf_counter() - start:.1f} s\n")
    for family in ("ice40", "ecp5"):
        cells = fpga_cells(PE(PES["both, two registers"]), family)
        print(f"PE, both, two registers on {family}: " + ", ".join(f"{n} {name}" for name, n in sorted(cells.items())))
    try:
        cells, mhz = routed_ice40_mhz(Grid(PES["both, two registers"]))
        print(f"2 x 2 PEs placed and routed on iCE40 HX8K, seed 1: {cells:,} logic cells, {mhz:.0f} MHz")
        if OSU018.is_file():
            parts = {"PE": PE(PES["both, two registers"]), **{name: lane(32) for name, lane in LANES.items()}}
            for name, part in {**parts, "dither": Dither()}.items():
                period = shortest_period_ns(part, OSU018)
                print(f"{name} in OSU018, an old 180 nm library, cells without wires: {period:.1f} ns")
        else:
            print(f"timing: {OSU018} is missing; on Debian: apt-get install qflow-tech-osu018")
    except UserError as error:
        print(f"left out: {error}")


if __name__ == "__main__":
    main()
