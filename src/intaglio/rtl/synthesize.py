"""Area of a component in standard cells, its timing in an old library, its cells on FPGAs: Yosys and its friends."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from amaranth.back import rtlil

from intaglio.rtl.verify import need

AREA45 = Path(__file__).with_name("area45.lib")
"""45 nm cells by area alone."""


def cell_area(component: Any, liberty: Path = AREA45) -> float:
    """um2 of the cells of a component, mapped without a timing goal, its multiplier in Booth's form; wires are not
    counted."""
    report = _report(component, _mapping(liberty), f"stat -liberty {liberty}")
    found = re.findall(r"Chip area for (?:top )?module.*?: ([\d.]+)", report)
    if not found:
        raise RuntimeError(f"Yosys reported no area:\n{report[-2000:]}")
    return float(found[-1])


def shortest_period_ns(component: Any, liberty: Path) -> float:
    """By OpenSTA: the slowest path between registers and ports, of cells without wires.

    Raises:
        UserError: `sta` is not installed.
    """
    sta = need("sta", "opensta")
    with tempfile.TemporaryDirectory() as name:
        netlist, script = Path(name) / "netlist.v", Path(name) / "sta.tcl"
        _run_alone(component, [*_mapping(liberty), f"write_verilog -noattr -noexpr {netlist}"])
        netlist.write_text(netlist.read_text(encoding="utf-8").replace(" signed ", " "), encoding="utf-8")
        script.write_text(
            f"read_liberty {liberty}\nread_verilog {netlist}\nlink_design top\n"
            f"create_clock -period {_PERIOD_NS} clk\nset_input_delay 0 -clock clk [all_inputs]\n"
            "set_output_delay 0 -clock clk [all_outputs]\nreport_worst_slack\nexit\n",
            encoding="utf-8",
        )
        done = subprocess.run([sta, "-no_splash", "-exit", str(script)], capture_output=True, text=True)
    slack = re.search(r"worst slack (-?[\d.]+)", done.stdout)
    if slack is None:
        raise RuntimeError(f"OpenSTA reported no slack:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    return _PERIOD_NS - float(slack.group(1))


_PERIOD_NS = 100.0


def routed_ice40_mhz(component: Any, seed: int = 1) -> tuple[int, float]:
    """Logic cells, and the clock in MHz, of a component placed and routed on an iCE40 HX8K by nextpnr.

    Raises:
        UserError: `nextpnr-ice40` is not installed.
    """
    nextpnr = need("nextpnr-ice40", "nextpnr-ice40")
    with tempfile.TemporaryDirectory() as name:
        netlist = Path(name) / "netlist.json"
        _run_alone(component, ["synth_ice40 -top top", "delete t:$scopeinfo", f"write_json {netlist}"])
        command = [nextpnr, "--hx8k", "--package", "ct256", "--json", str(netlist), "--seed", str(seed), "--freq", "50"]
        done = subprocess.run([*command, "--pcf-allow-unconstrained"], capture_output=True, text=True)
    cells = re.search(r"ICESTORM_LC:\s+(\d+)/", done.stderr)
    clocks = re.findall(r"Max frequency for clock[^:]*: ([\d.]+) MHz", done.stderr)
    if cells is None or not clocks:
        raise RuntimeError(f"nextpnr failed:\n{done.stderr[-2000:]}")
    return int(cells.group(1)), float(clocks[-1])


def fpga_cells(component: Any, family: str) -> dict[str, int]:
    """Cells of a component on an FPGA: `family` is "ice40" or "ecp5"."""
    report = _report(component, [f"synth_{family} -top top"], "stat")
    return {name: int(count) for count, name in _FPGA_CELLS.findall(report)}


_FPGA_CELLS = re.compile(r"^\s+(\d+)\s+(?:[\d.]+\s+)?(SB_\w+|LUT4|CCU2C|TRELLIS_FF|MULT18X18D)$", re.MULTILINE)


def _mapping(liberty: Path) -> list[str]:
    return ["synth -flatten -booth -top top", f"dfflibmap -liberty {liberty}", f"abc -liberty {liberty}", "opt_clean"]


_SCRIPT = """
import sys
from pyosys import libyosys
design = libyosys.Design()
for command in sys.argv[1:]:
    libyosys.run_pass(command, design)
"""


def _run_alone(component: Any, commands: list[str]) -> None:
    """Yosys in a process of its own: what it numbers decides how it maps, so a second run in one process gives areas
    up to 7 % apart."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.il"
        source.write_text(rtlil.convert(component, name="top", emit_src=False), encoding="utf-8")
        read = [f"read_rtlil {source}", "delete w:$verilog_initial_trigger"]
        command = [sys.executable, "-c", _SCRIPT, *read, *commands]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"Yosys failed:\n{done.stdout[-2000:]}{done.stderr[-1000:]}")


def _report(component: Any, steps: list[str], stat: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        _run_alone(component, [*steps, f"tee -q -o {log} {stat}"])
        return log.read_text(encoding="utf-8")
