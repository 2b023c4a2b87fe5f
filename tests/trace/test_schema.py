"""The trace's file: what is written comes back, and what is not a trace says so, with its line."""

import json

import pytest

from intaglio.accelerator.model_steps import model_step
from intaglio.errors import UserError
from intaglio.trace.schema import (
    SCHEMA_VERSION,
    Convolution,
    Event,
    Header,
    Operand,
    Trace,
    gemm_event,
    read_trace,
    write_trace,
)

HEADER = json.dumps({"intaglio_trace": SCHEMA_VERSION, "model": "m", "method": "lora", "step": {"rank": 4}})
GEMM = {"operation": "gemm", "pass": "output", "layer": "to_q", "M": 2, "N": 3, "K": 4}


def operand(role: str, *shape: int, bits: int = 8) -> Operand:
    return Operand(role, shape, f"int{bits}", bits, f"{role}:1")


def trace_file(tmp_path, *lines):
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_what_is_written_comes_back(tmp_path, name):
    geometry = Convolution(4, 8, (3, 3), (16, 16), (8, 8), stride=(2, 2), padding=(1, 1))
    events = (
        gemm_event("output", "to_q", operand("input", 2, 4), operand("weight", 4, 3, bits=4), M=2, N=3, K=4),
        Event(
            "conv2d", "output", "conv", 64, 8, 36, convolution=geometry, skipped={"grad_weight": "the weight is frozen"}
        ),
        Event("vector", "optimizer", "", kind="adamw", elements=28, count=3),
    )
    header = Header("sd15", "int8_lora", {"batch_size": 2, "resolution": 512})
    assert write_trace(tmp_path / name, header, events) == 3
    assert read_trace(tmp_path / name) == Trace(header, events)


def test_a_whole_step_comes_back(tmp_path):
    step = model_step("sd15", 4)
    write_trace(tmp_path / "sd15.jsonl.gz", step.header, step.events)
    assert read_trace(tmp_path / "sd15.jsonl.gz") == step


def test_nothing_half_written_is_left(tmp_path):
    def events():
        yield Event("vector", "output", "", kind="add", elements=1)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_trace(tmp_path / "t.jsonl", Header("m", "lora"), events())
    assert not (tmp_path / "t.jsonl").exists()


def test_autograds_order_does_not_matter():
    # dA = X^T GH is (K, r) with reduction over tokens; autograd may compute its transpose.
    X, GH = operand("input", 64, 320), operand("grad_hidden", 64, 4)
    one = gemm_event("grad_weight", "to_q.lora_A", X, GH, M=320, N=4, K=64)
    other = gemm_event("grad_weight", "to_q.lora_A", GH, X, M=4, N=320, K=64)
    assert one == other
    assert (one.M, one.N, one.K, one.macs) == (320, 4, 64, 320 * 4 * 64)


def test_bytes_are_of_the_methods_bits():
    assert operand("weight", 3, 5, bits=4).size_bytes == 8  # 15 elements of half a byte
    assert operand("input", 3, 5, bits=16).size_bytes == 30


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), r"trace.jsonl: the trace is empty; expected a header line"),
        ((HEADER,), r"has a header but no event; was a step run while it was recorded\?"),
        (("M,N,K", "1,2,3"), r"trace.jsonl:1: not JSON .*, got 'M,N,K'; .*; a CSV of M,N,K goes to --workload"),
        (("[1, 2]",), r"trace.jsonl:1: got '\[1, 2\]'; expected a JSON object per line"),
        ((GEMM,), r"trace.jsonl:1: no header, got .*; expected \{\"intaglio_trace\": 1"),
        (
            ({"intaglio_trace": 99},),
            r"trace.jsonl:1: trace schema version 99, this intaglio reads version 1; trace the step",
        ),
        ((HEADER, GEMM, "{"), r"trace.jsonl:3: not JSON"),
        ((HEADER, GEMM | {"M": 0}), r"trace.jsonl:2: M must be a positive integer, not 0"),
        ((HEADER, GEMM | {"K": "4"}), r"trace.jsonl:2: K must be a positive integer, not '4'"),
        (
            (HEADER, GEMM | {"operation": "gem"}),
            r"trace.jsonl:2: unknown operation 'gem', expected one of gemm, conv2d",
        ),
        (
            (HEADER, GEMM | {"pass": "backward"}),
            r"trace.jsonl:2: unknown pass 'backward', expected one of output, grad_input",
        ),
        ((HEADER, GEMM | {"m": 1}), r"trace.jsonl:2: got an unexpected keyword argument 'm'"),
        ((HEADER, {"operation": "gemm"}), r"trace.jsonl:2: missing 1 required positional argument: 'layer'"),
        ((HEADER, GEMM | {"operands": [{"role": "x"}]}), r"trace.jsonl:2: operand missing 2 required"),
        (
            (HEADER, GEMM | {"operands": [{"role": "x", "shape": [1], "dtype": "int8", "bits": 8}] * 2}),
            r"trace.jsonl:2: unknown operand role 'x', expected one of input",
        ),
        ((HEADER, {"operation": "vector", "pass": "output", "layer": "", "elements": 3}), "vector work needs its kind"),
    ],
)
def test_what_is_not_a_trace(tmp_path, lines, message):
    with pytest.raises(UserError, match=message):
        read_trace(trace_file(tmp_path, *lines) if lines else written_empty(tmp_path))


def written_empty(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.touch()
    return path


def test_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match="not a trace"):
        read_trace(path)
    path.with_suffix(".gz").write_bytes(b"plain")
    with pytest.raises(UserError, match="not a trace"):
        read_trace(path.with_suffix(".gz"))
