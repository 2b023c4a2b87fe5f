"""`intaglio rtl`: what a user can ask for, and what has no array."""

import sys

import pytest
from click.testing import CliRunner

from intaglio.accelerator.hardware import load_hardware
from intaglio.cli.rtl import command, design_of
from intaglio.errors import Problems, UserError
from intaglio.rtl.design import Design


def small(tmp_path):
    """A hardware file of 3 x 2 PEs."""
    text = (load_hardware_text("cdm-qta-32x32")).replace("rows = 32", "rows = 3").replace("cols = 32", "cols = 2")
    path = tmp_path / "small.toml"
    path.write_text(text.replace("size_bytes = 65536", "size_bytes = 4096"))
    return path


def load_hardware_text(name):
    from intaglio.accelerator.hardware import shipped_hardware

    return shipped_hardware()[name].read_text()


def test_a_hardware_file_becomes_verilog(tmp_path):
    pytest.importorskip("amaranth", reason="needs intaglio[rtl]")
    pytest.importorskip("pyosys", reason="needs intaglio[rtl]")
    done = CliRunner().invoke(command, ["--hardware", str(small(tmp_path)), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    written = {path.name for path in (tmp_path / "out").iterdir()}
    vectors = {"testbench.v", "instructions.hex", "beats.hex", "words.hex"}
    assert written == vectors | {"machine.v", "pe.v", "grid.v", "grid_loops.v"}
    assert "3 x 2" in done.output


def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "intaglio.rtl.export", None)
    with pytest.raises(UserError, match=r"pip install 'intaglio\[rtl\]'"):
        CliRunner().invoke(command, ["--hardware", "fixed-ws", "--out", str(tmp_path)], catch_exceptions=False)


def test_a_float_array_has_no_rtl():
    with pytest.raises(Problems, match=r"array\.number is 'float'; the PE in RTL multiplies integers"):
        design_of(load_hardware("fp16-fixed"))


@pytest.mark.parametrize("name", ["cdm-qta-64x64", "intaglio-64x64", "edge-npu", "fixed-os"])
def test_shipped_arrays(name):
    hardware = load_hardware(name)
    design = design_of(hardware)
    assert (design.rows, design.cols, design.modes) == (hardware.array.rows, hardware.array.cols, hardware.array.modes)
    halves = design.halves * design.rows * design.left_words
    assert halves == hardware.buffers.input.size_bytes


def test_all_problems_at_once():
    with pytest.raises(Problems) as caught:
        Design(0, 65, overlap="none", operand_bits=9, sum_bits=8, left_words=1, modes=())  # type: ignore[arg-type]
    assert len(caught.value.problems) == 7
