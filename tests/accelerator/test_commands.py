"""The three commands from end to end, on small inputs."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from intaglio.accelerator import exploration
from intaglio.accelerator.baselines import BASELINES
from intaglio.accelerator.exploration import pareto_front, read_designs
from intaglio.accelerator.hardware import load_hardware, shipped_hardware
from intaglio.accelerator.model_steps import model_step
from intaglio.accelerator.workload import workload_of_trace
from intaglio.cli import compare_hardware, explore, simulate
from intaglio.errors import UserError
from intaglio.trace.schema import write_trace

SCALESIM = Path(__file__).parents[1] / "data" / "scalesim_v3_gemm_cycles.csv"
FIRST = "M,N,K,dataflow,compute_cycles,stall_cycles,latency_cycles,overall_utilization,energy_pj"


def run(command, *arguments):
    result = CliRunner().invoke(command, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("dataflow", ["weight_stationary", "output-stationary"])
def test_simulate_reproduces_scalesim_row_by_row(tmp_path, dataflow):
    name = dataflow.replace("-", "_")
    runs = [row for row in table(SCALESIM) if row["dataflow"] == name]
    with (tmp_path / "w.csv").open("w") as file:
        file.write("M,N,K\n" + "".join(f"{r['M']},{r['N']},{r['K']}\n" for r in runs))
    hardware = ["--hardware", "hardware/cdm-qta-32x32.toml", "--overlap", "none"]
    where = ["--workload", tmp_path / "w.csv", "--out", tmp_path / "out", "--no-report"]
    assert run(simulate.command, *where, *hardware, "--dataflow", dataflow).exit_code == 0
    costed = table(tmp_path / "out" / "operations.csv")
    assert [int(c["compute_cycles"]) for c in costed] == [int(r["compute_cycles"]) for r in runs]
    for cost, reference in zip(costed, runs, strict=True):
        assert float(cost["compute_utilization"]) == pytest.approx(float(reference["overall_utilization"]), abs=2e-6)
        assert int(cost["latency_cycles"]) == int(cost["compute_cycles"]) + int(cost["stall_cycles"])


def test_simulate_a_trace_with_a_report(tmp_path):
    step = model_step("sd15", 4)
    write_trace(tmp_path / "t.jsonl", step.header, [e for e in step.events if "mid_block" in e.layer])
    result = run(
        simulate.command, "--trace", tmp_path / "t.jsonl", "--hardware", "cdm-qta-64x64", "--out", tmp_path / "out"
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "operations.csv").read_text().startswith(FIRST)
    assert {row["pass"] for row in table(tmp_path / "out" / "passes.csv")} == {
        "output",
        "grad_input",
        "grad_weight",
        "quantize",
    }
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["energy_mj"] == sorted(summary["energy_mj"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") == 8
    for heading in ("Where the time goes", "Roofline", "Energy", "Beside baselines", "Exact inputs"):
        assert heading in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://www.w3.org", "")
    assert "<script" not in page


def test_a_report_of_attention_on_chip(tmp_path):
    step = model_step("sd15", 4)
    write_trace(tmp_path / "t.jsonl", step.header, [e for e in step.events if "mid_block" in e.layer])
    where = ["--trace", tmp_path / "t.jsonl", "--out", tmp_path / "out"]
    assert run(simulate.command, *where, "--hardware", "intaglio-ws-64x64").exit_code == 0
    assert "Where the time goes" in (tmp_path / "out" / "report.html").read_text()


def test_simulate_wants_one_source(tmp_path):
    result = CliRunner().invoke(simulate.command, ["--hardware", "fixed-ws", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "give exactly one of --trace FILE, --workload FILE.csv and --model NAME" in result.output


def test_compare_hardware(tmp_path):
    result = run(
        compare_hardware.command, "--models", "sd15", "--ranks", "4", "--methods", "lora,scales", "--out", tmp_path
    )
    assert "1.81x speed-up over fp16-equal-area: reached in every case" in result.output
    rows = table(tmp_path / "ratios.csv")
    assert len(rows) == 2 * len(BASELINES)
    assert all(
        float(r["energy_efficiency_low"]) <= float(r["energy_efficiency"]) <= float(r["energy_efficiency_high"])
        for r in rows
    )
    assert all(row["source"] for row in table(tmp_path / "chips.csv"))
    assert (tmp_path / "comparison.html").read_text().count("paper") >= 4


def test_compare_hardware_with_wrong_names(tmp_path):
    with pytest.raises(UserError, match="unknown model 'sd3'"):
        run(compare_hardware.command, "--models", "sd3", "--out", tmp_path)
    result = CliRunner().invoke(compare_hardware.command, ["--ranks", "4,x", "--out", str(tmp_path)])
    assert "expected positive integers with commas, as 4,16,64; got '4,x'" in result.output


SPACE = """
base = "cdm-qta-32x32"
designs = 12
[axes]
rows = [16, 32]
weight_kib = [1, 64]
overlap = ["serial", "shadow"]
partition = ["1x1", "2x2"]
packing = [false, true]
fused_attention = [false, true]
"""


@pytest.fixture
def space(tmp_path):
    (tmp_path / "space.toml").write_text(SPACE)
    (tmp_path / "w.csv").write_text("M,N,K\n4096,320,320\n64,4,1280\n16,640,1024\n")
    return ["--space", tmp_path / "space.toml", "--workload", tmp_path / "w.csv", "--jobs", 1]


def test_explore_finds_better_designs_and_goes_on(tmp_path, space):
    result = run(explore.command, *space, "--out", tmp_path / "out")
    assert "better than cdm-qta-32x32 in all three" in result.output or "none is better" in result.output
    path = tmp_path / "out" / "designs.csv"
    complete = path.read_text()
    assert len(complete.splitlines()) == 13
    path.write_text(complete[: len(complete) // 2])  # a crash in the middle of a line
    run(explore.command, *space, "--out", tmp_path / "out")
    by_index = {row["index"]: row for row in read_designs(path)}
    again = {row["index"]: row for row in csv.DictReader(complete.splitlines())}
    assert by_index == again
    front = table(tmp_path / "out" / "pareto.csv")
    assert 0 < len(front) <= 12
    better = tmp_path / "out" / "better.toml"
    assert better.exists() == ("better.toml" in result.output)
    assert not better.exists() or load_hardware(better).name == "better"


def test_explore_refuses_to_mix_results(tmp_path):
    work = workload_of_trace(model_step("dit", 4))
    list(exploration.explore(exploration.Space(base="fixed-ws"), work, tmp_path, jobs=1))
    with pytest.raises(UserError, match="holds results of another space, base, step or cost model"):
        list(exploration.explore(exploration.Space(base="fixed-os"), work, tmp_path, jobs=1))


def test_explore_reports_a_misspelt_axis(tmp_path, space):
    (tmp_path / "space.toml").write_text(SPACE.replace("overlap", "overlaps"))
    with pytest.raises(UserError, match=r"unknown key 'axes.overlaps' \(did you mean 'overlap'\?\)"):
        run(explore.command, *space, "--out", tmp_path / "out")


def test_pareto_front_against_the_definition():
    values = np.random.default_rng(0).integers(0, 12, (300, 3)).astype(float)
    front = set(pareto_front(values).tolist())
    for i, row in enumerate(values):
        beaten = ((values <= row).all(axis=1) & (values < row).any(axis=1)).any()
        twin = any((values[j] == row).all() for j in front if j != i)
        assert (i in front) == (not beaten and not (twin and i not in front))


def test_hardware_files_survive_writing(tmp_path):
    from intaglio.accelerator.exploration_report import to_toml

    for name in shipped_hardware():
        path = tmp_path / f"{name}.toml"
        path.write_text(to_toml(load_hardware(name)))
        assert load_hardware(path) == load_hardware(name)
