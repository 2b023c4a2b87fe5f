"""Exports to other tools."""

import pytest

from intaglio.accelerator.csv_workload import load_csv_workload
from intaglio.accelerator.model_steps import model_step
from intaglio.errors import UserError
from intaglio.trace.export import export_trace


def test_csv_is_a_workload_again(tmp_path):
    step = model_step("sd15", 4)
    number = export_trace(step, tmp_path / "out" / "sd15.csv", "csv")
    work = load_csv_workload(tmp_path / "out" / "sd15.csv")
    assert len(work.products) == number
    assert work.macs == step.macs


def test_scalesim_topology(tmp_path):
    step = model_step("sd15", 4)
    number = export_trace(step, tmp_path / "t.csv", "scalesim")
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[0] == "Layer,M,N,K,"
    assert lines[1] == "0.time_embedding.linear_1.output,1,1280,320,"
    assert len(lines) == number + 1
    assert len({line.split(",")[0] for line in lines}) == number + 1


def test_zigzag_workload(tmp_path):
    export_trace(model_step("sd15", 4), tmp_path / "w.yaml", "zigzag")
    text = (tmp_path / "w.yaml").read_text()
    assert "  name: 2.conv_in.output\n  operator_type: Conv\n" in text
    assert "  loop_sizes: [1, 320, 4, 64, 64, 3, 3]\n" in text
    assert "iy=2*oy+1*fy" in text


def test_unknown_format(tmp_path):
    with pytest.raises(UserError, match="unknown export format 'onnx'; expected one of csv, scalesim, zigzag"):
        export_trace(model_step("sd15", 4), tmp_path / "x", "onnx")
