"""From a run to what its step would cost: train -> trace -> simulate -> report."""

from __future__ import annotations

import csv
import json

import pytest
from click.testing import CliRunner

from intaglio.cli import simulate, train
from intaglio.errors import Problems, UserError
from intaglio.trace.schema import PRODUCTS, read_trace


def invoke(command, *arguments):
    result = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_from_training_to_the_report(tmp_path, sd_folder, photo_folder):
    """train -> trace -> simulate -> report, with the modelled step beside the measured one."""
    out = tmp_path / "adapter"
    invoke(
        train.command, "--pretrained_model_name_or_path", sd_folder, "--instance_data_dir", photo_folder,
        "--instance_prompt", "sks square", "--method", "qlora", "--rank", 2, "--range_search", "absmax",
        "--max_train_steps", 2, "--train_batch_size", 2, "--report_to", "none", "--output_dir", out,
        "--trace_step", 2, "--hardware", "cdm-qta-32x32",
    )  # fmt: skip
    trace = read_trace(out / "trace.jsonl")
    assert (trace.header.method, trace.header.step["step"], trace.header.step["batch_size"]) == ("qlora", 2, 2)
    assert {e.pass_name for e in trace.events} == {"output", "grad_input", "grad_weight", "optimizer", "quantize"}
    summary = json.loads((out / "summary.json").read_text())
    assert summary["accelerator"]["hardware"] == "cdm-qta-32x32"
    card = (out / "README.md").read_text()
    assert f"{summary['accelerator']['latency_ms']:,.4g} ms and" in card
    assert "measured here" in card

    invoke(simulate.command, "--trace", out / "trace.jsonl", "--hardware", "cdm-qta-32x32", "--out", tmp_path / "sim")
    assert (tmp_path / "sim" / "report.html").read_text().count("<svg") == 8
    with (tmp_path / "sim" / "operations.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sum(row["operation"] in PRODUCTS for row in rows) == sum(e.is_product for e in trace.events)
    simulated = json.loads((tmp_path / "sim" / "summary.json").read_text())
    assert simulated["latency_ms"] == pytest.approx(summary["accelerator"]["latency_ms"], rel=1e-4)


def test_training_checks_the_trace_before_it_loads_anything(tmp_path, sd_folder, photo_folder):
    common = ["--pretrained_model_name_or_path", str(sd_folder), "--instance_data_dir", str(photo_folder)]
    common += ["--instance_prompt", "x", "--max_train_steps", "3", "--output_dir", str(tmp_path / "out")]
    for extra, message in (
        (["--trace_step", "4"], "trace_step = 4, but the run has 3 steps; trace one of them"),
        (["--hardware", "fixed-ws"], "--hardware costs a step that was recorded; add --trace_step 2"),
        (["--trace_step", "2", "--hardware", "fixed-wz"], "did you mean 'fixed-ws'"),
    ):
        with pytest.raises((UserError, Problems), match=message):
            CliRunner().invoke(train.command, [*common, *extra], catch_exceptions=False)
    assert not (tmp_path / "out").exists()
