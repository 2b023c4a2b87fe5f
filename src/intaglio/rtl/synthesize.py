"""Area of a component in standard cells, by Yosys and a Liberty file."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from intaglio.rtl.verilog import run_yosys

AREA45 = Path(__file__).with_name("area45.lib")
"""45 nm cells by area alone."""

FPGA_CELLS = re.compile(r"^\s+(\d+)\s+(?:[\d.]+\s+)?(\w+)$", re.MULTILINE)


def cell_area(component: Any, liberty: Path = AREA45) -> float:
    """um2 of the cells of a component, mapped without a timing goal, its multiplier in Booth's form; wires are not
    counted."""
    steps = ["synth -flatten -booth -top top", f"dfflibmap -liberty {liberty}", f"abc -liberty {liberty}", "opt_clean"]
    report = _report(component, steps, f"stat -liberty {liberty}")
    found = re.findall(r"Chip area for (?:top )?module.*?: ([\d.]+)", report)
    if not found:
        raise RuntimeError(f"Yosys reported no area:\n{report[-2000:]}")
    return float(found[-1])


def fpga_cells(component: Any, family: str) -> dict[str, int]:
    """Cells of a component on an FPGA: `family` is "ice40" or "ecp5"."""
    report = _report(component, [f"synth_{family} -top top"], "stat")
    last = report.rsplit("Number of cells", 1)[-1] if "Number of cells" in report else report
    return {name: int(count) for count, name in FPGA_CELLS.findall(last) if name.isupper() or name.startswith("SB_")}


def _report(component: Any, steps: list[str], stat: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        run_yosys(component, "top", [*steps, f"tee -q -o {log} {stat}"])
        return log.read_text(encoding="utf-8")
