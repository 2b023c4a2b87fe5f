"""`intaglio trace`: published models from their shapes, and the chain from training to a report."""

from __future__ import annotations

from collections import Counter

import pytest
from click.testing import CliRunner

from intaglio.accelerator.csv_workload import load_csv_workload
from intaglio.accelerator.model_steps import model_step
from intaglio.accelerator.workload import workload_of_trace
from intaglio.checkpoints.shapes import Shape, empty_denoiser, shape_named
from intaglio.cli import trace as trace_command
from intaglio.cli.trace import record_shape
from intaglio.errors import UserError
from intaglio.methods.registry import METHODS
from intaglio.trace.schema import read_trace

TINY = Shape(
    "tiny",
    "UNet2DConditionModel",
    {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 24,
        "norm_num_groups": 4,
    },
    64,
)


def invoke(command, *arguments):
    result = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def products(trace):
    return Counter((e.pass_name, e.layer.lower(), e.M, e.N, e.K, e.batch) for e in trace.events if e.is_product)


@pytest.fixture(scope="module")
def sd15():
    return record_shape(shape_named("sd15"), method="lora", rank=16)


def test_recorded_sd15_is_the_step_built_from_shapes(sd15):
    """Two ways to the same 1,426 products: torch's dispatcher, and the model written down by hand."""
    built = model_step("sd15", 16)
    assert products(sd15) == products(built)
    assert sd15.header.step["trained_parameters"] == built.header.step["trained_parameters"] == 3_188_736
    reasons = {(e.layer.lower(), *e.skipped.items()) for e in built.events if e.skipped and ".to_" in e.layer}
    assert reasons <= {(e.layer.lower(), *e.skipped.items()) for e in sd15.events if e.skipped}


def test_recorded_sd15_is_the_published_table(sd15):
    macs: Counter[str] = Counter()
    for event in sd15.events:
        if event.is_product and event.pass_name == "output" and "lora" not in event.layer:
            names = {".to_": "q, k, v, out", ".ff.": "feed-forward", "proj_": "proj in, out", "time_": "time"}
            group = next((g for part, g in names.items() if part in event.layer), "other convolutions")
            macs["attention products" if event.operation == "attention_product" else group] += event.macs
    assert {group: round(value / 1e9, 2) for group, value in macs.items()} == {
        "q, k, v, out": 39.85,
        "feed-forward": 76.76,
        "proj in, out": 12.79,
        "other convolutions": 209.18,
        "time": 0.03,
        "attention products": 63.03,
    }


def test_an_integer_array_quantizes_what_was_recorded_wider(sd15):
    """The quantizers that a fully quantized step needs, added to a step that was recorded in float."""

    def quantized(work):
        kinds = [label.kind == "quantize" for label in work.vector_labels]
        return int(work.vector_elements[kinds].sum())

    assert not quantized(workload_of_trace(sd15))
    added, built = workload_of_trace(sd15, integer_bits=8), workload_of_trace(model_step("sd15", 16))
    assert quantized(added) == pytest.approx(quantized(built), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters"), [("sdxl", 2_567_463_684), ("flux", 11_901_408_320), ("pixart", 610_856_096), ("sd3", None)]
)
def test_other_published_models(name, parameters):
    """Parameters of the released checkpoints (of SD 3 we know no exact figure), and a whole step of each."""
    shape = shape_named(name)
    assert parameters in (None, sum(p.numel() for p in empty_denoiser(shape).parameters()))
    trace = record_shape(shape, method="qlora", rank=4, base="int4")
    forward = sum(e.macs for e in trace.events if e.pass_name == "output")
    backward = sum(e.macs for e in trace.events if e.pass_name == "grad_input")
    assert 0.9 < backward / forward < 1.2  # frozen weights: no third pass
    assert "unknown_operators" not in trace.header.step


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_from_shapes(method):
    trace = record_shape(TINY, method=method, batch_size=3)
    passes = {e.pass_name for e in trace.events}
    assert {"output", "grad_input", "optimizer"} <= passes
    assert ("quantize" in passes) == METHODS[method].needs_base
    assert "unknown_operators" not in trace.header.step
    assert (trace.header.step["batch_size"], trace.header.step["resolution"]) == (3, 64)


def test_trace_writes_and_exports(tmp_path):
    out = tmp_path / "step.jsonl"
    said = invoke(
        trace_command.command, "--pretrained-model-name-or-path", "embedded", "--method", "qlora", "--base", "int8",
        "--rank", 4, "--out", out, "--export", "csv", "--export", "scalesim", "--export", "zigzag",
    )  # fmt: skip
    trace = read_trace(out)
    assert f"{trace.macs / 1e9:,.2f} GMAC" in said
    assert (trace.header.model, trace.header.method, trace.header.step["rank"]) == ("embedded", "qlora", 4)
    assert load_csv_workload(tmp_path / "step.csv").macs == trace.macs
    assert (tmp_path / "step.scalesim.csv").read_text().startswith("Layer,M,N,K,")
    assert "operator_type: Conv" in (tmp_path / "step.zigzag.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give exactly one of --pretrained_model_name_or_path MODEL and --shapes NAME"),
        (["--shapes", "sd51"], r"unknown shapes 'sd51' \(did you mean 'sd15'\?\)"),
        (["--shapes", "sd15", "--resolution", "500"], "sd15 takes images of a multiple of 8 pixels, not 500"),
        (["--shapes", "sd15", "--method", "qlroa"], r"unknown method 'qlroa' \(did you mean 'qlora'\?\)"),
        (["--shapes", "sd15", "--method", "peqa", "--rank", "4"], "no option 'rank'"),
        (["--pretrained_model_name_or_path", "/no/model"], "/no/model: no such file or folder"),
    ],
)
def test_what_cannot_be_traced(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        CliRunner().invoke(
            trace_command.command, [*arguments, "--out", str(tmp_path / "t.jsonl")], catch_exceptions=False
        )
