"""Amaranth -> Verilog, by Yosys inside Python (pyosys)."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amaranth.back import rtlil
from pyosys import libyosys  # pyright: ignore[reportAttributeAccessIssue]

from intaglio.rtl.design import Design
from intaglio.rtl.machine import Machine
from intaglio.rtl.pe import PE

_MEMORY = re.compile(r"^  reg \[\d+:0\] (\S+) \[(\d+):0\];$", re.MULTILINE)
_CLEARED = r"""\g<0>
  integer \1_word;
  initial for (\1_word = 0; \1_word <= \2; \1_word = \1_word + 1) \1[\1_word] = 0;"""
"""A memory is cleared in a loop: Yosys writes a line a word."""

Step = str | Callable[[Any], None]
"""A command of Yosys, or a function of its design."""


def run_yosys(component: Any, name: str, steps: list[Step]) -> None:
    """Read a component as module `name`, and take steps with it."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source = Path(folder) / "source.il"
        source.write_text(rtlil.convert(component, name=name, emit_src=False), encoding="utf-8")
        design = libyosys.Design()
        for step in [f"read_rtlil {source}", "delete w:$verilog_initial_trigger", *steps]:
            if isinstance(step, str):
                libyosys.run_pass(step, design)
            else:
                step(design)


def verilog_of(component: Any, name: str) -> str:
    """The modules of a component; `name` is the first of them."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.v"
        write = f"write_verilog -noattr -norename {out}"
        steps = ["delete t:$meminit*", "proc -nomux -norom", "memory_collect", "opt_clean", equal_widths, write]
        run_yosys(component, name, steps)
        return _MEMORY.sub(_CLEARED, out.read_text(encoding="utf-8"))


def machine_verilog(design: Design) -> str:
    """Everything but the grid; module `machine`."""
    return verilog_of(Machine(design, black_box=True), "machine")


def pe_verilog(design: Design) -> str:
    return verilog_of(PE(design), "pe")


def equal_widths(design: Any) -> None:
    """Extend the operands of each cell to one width: what Verilog does by rule, and its linters want to see."""
    for module in list(design.modules_.values()):
        for cell in list(module.cells_.values()):
            kind = cell.type.str()
            if kind == "$logic_not":
                _as_comparison_with_zero(cell)
                kind = "$eq"
            if kind in _ARITHMETIC:
                _extend(cell, _width(cell, "Y"))
            elif kind in _COMPARISONS:
                _extend(cell, max(_width(cell, "A"), _width(cell, "B")))
            elif kind in _SHIFTS:
                _as_wide_result(module, cell)
                _extend(cell, _width(cell, "Y"), ("A",))


_ARITHMETIC = ("$add", "$sub", "$mul", "$and", "$or", "$xor", "$not", "$neg", "$pos")
_COMPARISONS = ("$eq", "$ne", "$lt", "$le", "$gt", "$ge")
_SHIFTS = ("$shl", "$shr", "$sshr")


def _id(name: str) -> Any:
    return libyosys.IdString(f"\\{name}")


def _width(cell: Any, port: str) -> int:
    return cell.getPort(_id(port)).size()


def _extend(cell: Any, width: int, ports: tuple[str, ...] = ("A", "B")) -> None:
    for port in ports:
        if cell.hasPort(_id(port)):
            operand = cell.getPort(_id(port))
            operand.extend_u0(width, cell.getParam(_id(f"{port}_SIGNED")).as_bool())
            cell.setPort(_id(port), operand)
    cell.fixup_parameters()


def _as_comparison_with_zero(cell: Any) -> None:
    cell.type = libyosys.IdString("$eq")
    cell.setPort(_id("B"), libyosys.SigSpec(libyosys.Const(0, _width(cell, "A"))))
    signed = cell.getParam(_id("A_SIGNED"))
    cell.setParam(_id("B_SIGNED"), signed)
    cell.fixup_parameters()


def _as_wide_result(module: Any, cell: Any) -> None:
    """Let a shift give all bits of its operand, of which the result takes the lower."""
    result, width = cell.getPort(_id("Y")), _width(cell, "A")
    if width > result.size():
        wire = module.addWire(libyosys.new_id(__file__, 0, "equal_widths"), width)
        wide = libyosys.SigSpec(wire)
        cell.setPort(_id("Y"), wide)
        cell.fixup_parameters()
        module.connect(result, wide.extract(0, result.size()))


@contextmanager
def _quiet() -> Iterator[None]:
    """Yosys names each pass on the standard output of the process."""
    sys.stdout.flush()
    kept = os.dup(1)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
