"""The Verilog under other tools: Verilator's lint, Icarus, the testbench that checks itself, two forms of the grid."""

import shutil
import subprocess

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="needs intaglio[rtl]")
pytest.importorskip("pyosys", reason="needs intaglio[rtl]")

from intaglio.rtl.design import MODES, Design
from intaglio.rtl.export import write_verilog
from intaglio.rtl.grid_verilog import grid_of_loops
from intaglio.rtl.program import gemm_program, sums_of
from intaglio.rtl.testbench import write_testbench

verilator = pytest.mark.skipif(shutil.which("verilator") is None, reason="needs verilator")
icarus = pytest.mark.skipif(shutil.which("iverilog") is None, reason="needs iverilog")

SMALL = {"left_words": 128, "right_words": 128, "result_words": 256}
DESIGNS = {
    "1x1": Design(1, 1, overlap="wavefront", **SMALL),
    "4x3": Design(4, 3, overlap="shadow", **SMALL),
    "2x5, one half": Design(2, 5, overlap="serial", halves=1, **SMALL),
    "3x2, WS": Design(3, 2, modes=MODES[:1], overlap="double_buffered", **SMALL),
    "2x3, OS, 24 bits": Design(2, 3, modes=MODES[1:], overlap="wavefront", sum_bits=24, **SMALL),
    "3x2, transposers": Design(3, 2, transposers=("left", "right"), **SMALL),
    "2x2, 4 bits": Design(2, 2, operand_bits=4, sum_bits=20, **SMALL),
}


@pytest.fixture(scope="module", params=DESIGNS.values(), ids=DESIGNS)
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("verilog")
    write_verilog(request.param, folder)
    write_testbench(request.param, folder)
    return folder


def run(folder, *command):
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@verilator
@pytest.mark.slow
@pytest.mark.parametrize("grid", [["grid.v", "pe.v"], ["grid_loops.v"]], ids=["PEs", "loops"])
def test_verilator_lints_without_a_warning(exported, grid):
    done = run(exported, "verilator", "--lint-only", "--top-module", "machine", "machine.v", *grid)
    assert (done.returncode, done.stderr) == (0, "")


@icarus
@pytest.mark.slow
def test_the_testbench_passes_under_icarus_and_can_fail(exported):
    files = ["testbench.v", "machine.v", "grid.v", "pe.v"]
    assert run(exported, "iverilog", "-g2005", "-o", "machine", *files).returncode == 0
    assert run(exported, "vvp", "machine").stdout.startswith("PASS")
    words = exported / "words.hex"
    lines = words.read_text().splitlines()
    words.write_text("\n".join([lines[0][:-1] + ("1" if lines[0][-1] != "1" else "2"), *lines[1:]]))
    assert "FAIL" in run(exported, "vvp", "machine").stdout


@verilator
@pytest.mark.slow
@pytest.mark.parametrize("overlap", ["wavefront", "shadow"])
def test_loops_equal_instances(tmp_path, overlap):
    """The form for speed and the form for synthesis, and Amaranth's simulator, on the same streams."""
    from intaglio.rtl import simulate
    from intaglio.rtl.verify import VerilatedMachine, build

    design, rng = Design(3, 4, overlap=overlap, **SMALL), np.random.default_rng(0)
    pairs = [
        (rng.integers(-128, 128, (M, K)), rng.integers(-128, 128, (K, N))) for M, N, K in rng.integers(1, 12, (6, 3))
    ]
    machines = [VerilatedMachine(design, build(design, tmp_path, form)) for form in ("loops", "pes")]
    for x, w in pairs:
        for mode in MODES:
            program = gemm_program(design, x, w, mode)
            first, second = (machine.run(program) for machine in machines)
            third = simulate.run(program)
            assert np.array_equal(first[0], second[0])
            assert np.array_equal(first[0], third[0])
            assert first[1:] == second[1:] == third[1:]
            assert np.array_equal(sums_of(first[0], len(x), w.shape[1], design), x @ w)
    for machine in machines:
        machine.__exit__(None, None, None)


def test_loops_have_the_registers_of_the_overlap():
    assert "working_weights" in grid_of_loops(Design(2, 2, overlap="shadow"))
    assert "working_weights" not in grid_of_loops(Design(2, 2, overlap="wavefront"))
