"""Builds the Verilog with Verilator, and runs programs on it: a thousand times Amaranth's simulator."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np

from intaglio.errors import UserError
from intaglio.rtl.design import Design, input_bits
from intaglio.rtl.export import write_verilog
from intaglio.rtl.instructions import INSTRUCTION
from intaglio.rtl.program import Bytes, Program

DRIVER = Path(__file__).with_name("driver.cpp")
Form = Literal["loops", "pes"]


def need(tool: str, package: str) -> str:
    """The path of a program that Debian has.

    Raises:
        UserError: it is not installed.
    """
    path = shutil.which(tool)
    if path is None:
        raise UserError(f"{tool} is not installed; on Debian: apt-get install {package}")
    return path


def build(design: Design, folder: Path, form: Form = "loops") -> Path:
    """Verilog of the machine in `folder`, and the program that runs it; its path.

    form: the grid as loops, which Verilator builds in the same time for any size, or as an instance a PE.
    """
    verilator = need("verilator", "verilator")
    write_verilog(design, folder)
    grid = ["grid_loops.v"] if form == "loops" else ["grid.v", "pe.v"]
    sizes = {
        "INSTRUCTION_BYTES": -(-INSTRUCTION.size // 8),
        "IN_BYTES": -(-input_bits(design) // 8),
        "OUT_BYTES": -(-design.cols * design.sum_bits // 8),
    }
    flags = " ".join(f"-D{name}={value}" for name, value in sizes.items())
    made = subprocess.run(
        [
            *(verilator, "--cc", "--exe", "--build", "-j", "2", "-O3", "--x-assign", "fast", "--x-initial", "fast"),
            *(
                "--noassert",
                "--top-module",
                "machine",
                "--Mdir",
                f"build_{form}",
                "-CFLAGS",
                flags,
                "-MAKEFLAGS",
                "OPT_FAST=-O1 OPT_SLOW=-O0",
                "-o",
                "machine",
            ),
            *("machine.v", *grid, str(DRIVER)),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if made.returncode:
        raise RuntimeError(f"verilator failed in {folder}:\n{made.stdout[-2000:]}{made.stderr[-4000:]}")
    return folder / f"build_{form}" / "machine"


class VerilatedMachine:
    """A running machine: `with VerilatedMachine(design, build(...)) as machine: machine.run(program)`."""

    def __init__(self, design: Design, binary: Path):
        self.design = design
        self._process = subprocess.Popen([str(binary)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> VerilatedMachine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def run(self, program: Program) -> tuple[Bytes, int, int]:
        """As `simulate.run`: the words that the program stores, `gemm_cycles`, and all cycles."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        beats, width = program.beats(), -(-self.design.cols * self.design.sum_bits // 8)
        counts = np.array([len(program.instructions), len(beats), program.stored], dtype="<u4")
        size = -(-INSTRUCTION.size // 8)
        instructions = b"".join(bits.to_bytes(size, "little") for bits in program.instructions)
        stdin.write(counts.tobytes() + instructions)
        stdin.write(beats.tobytes())
        stdin.flush()
        raw = stdout.read(program.stored * width + 8)
        if len(raw) != program.stored * width + 8:
            raise RuntimeError(f"the Verilated machine ended with code {self._process.wait()}")
        gemm_cycles, cycles = np.frombuffer(raw[-8:], dtype="<u4").tolist()
        return np.frombuffer(raw[:-8], dtype=np.uint8).reshape(-1, width), gemm_cycles, cycles
