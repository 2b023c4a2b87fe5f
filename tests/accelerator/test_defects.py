"""Each fault that the model once had: the smallest input that showed it, and the right value."""

import gzip

import numpy as np
import pytest
from click.testing import CliRunner

from intaglio.accelerator.area import area_of
from intaglio.accelerator.axes import design_at
from intaglio.accelerator.chips import efficiency_beside, peak_efficiency, published_chips, step_efficiency
from intaglio.accelerator.csv_workload import load_csv_workload
from intaglio.accelerator.energy import prices_of
from intaglio.accelerator.exploration import digest_of_step
from intaglio.accelerator.hardware import load_hardware, shipped_hardware
from intaglio.accelerator.model_steps import model_step
from intaglio.accelerator.products import ROW_MAJOR, TRANSPOSED, products_of
from intaglio.accelerator.schedule import prepare
from intaglio.accelerator.simulate import simulate
from intaglio.accelerator.sram import sram_of
from intaglio.accelerator.step_builder import StepBuilder, Tensor
from intaglio.accelerator.tables import operation_rows
from intaglio.accelerator.workload import Label, Workload, load_trace_workload, workload_of_trace
from intaglio.cli import simulate as simulate_command
from intaglio.errors import UserError
from intaglio.trace.schema import Header, Operand, Trace, gemm_event, write_trace

CDM = "cdm-qta-64x64"


def work(*rows, labels=None, vector=()):
    labels = labels or tuple(Label(f"row {i}", "output", "gemm") for i in range(len(rows)))
    elements = np.array([count for _, count in vector], dtype=np.int64)
    return Workload("test", "", products_of(rows), labels, tuple(label for label, _ in vector), elements, {})


def attention(T, S, D, heads):
    """One attention of a training step, forward and backward."""
    step = StepBuilder("attention", "lora")
    q, k, v = (Tensor(name, rows, heads * D, True) for name, rows in (("q", T), ("k", S), ("v", S)))
    step.attention("attn", q, k, v, heads)
    return workload_of_trace(step.trace())


# Overlap and buffers


def test_single_buffers_overlap_nothing():
    # One fold of 254 cycles, 12,288 bytes in 240, DRAM's answer after 50.
    single = load_hardware(CDM).replaced(buffers__double_buffered=False)
    assert simulate(work({"M": 64, "N": 64, "K": 64}), single).latency_cycles == 254 + 240 + 50
    large = work({"M": 4096, "N": 320, "K": 2880})
    step = simulate(large, single)
    assert step.latency_cycles >= step.costs.compute_cycles[0] + step.costs.dram_cycles[0]
    assert step.latency_cycles > simulate(large, load_hardware(CDM)).latency_cycles


def test_one_tile_pays_its_first_load_and_last_store():
    step = simulate(work({"M": 64, "N": 64, "K": 64}), load_hardware("fixed-ws"))
    assert step.latency_cycles == 50 + 80 + 254 + 80  # at least 384 where the weights must have arrived


@pytest.mark.parametrize("port", [32, 64, 256, 1024])
def test_a_wider_port_is_neither_cheaper_a_byte_nor_smaller(port):
    hardware = load_hardware(CDM)
    narrow, wide = (
        sram_of(hardware.buffers.input.model_copy(update={"bandwidth_bytes_per_cycle": b}), hardware.technology)
        for b in (port, 4 * port)
    )
    assert wide.read_pj_per_byte > narrow.read_pj_per_byte
    assert wide.write_pj_per_byte > narrow.write_pj_per_byte
    assert wide.area_mm2 > narrow.area_mm2


def test_a_crossbar_by_hand():
    # 8 banks of 32 bytes: 2 * 8 * 7 * 256 multiplexers of 1.862 um2 over 70 % of a row, scaled to 28 nm; a byte crosses
    # its side at 0.1 pJ a bit and mm.
    hardware = load_hardware(CDM)
    one, eight = (
        sram_of(hardware.buffers.input.model_copy(update={"bandwidth_bytes_per_cycle": b}), hardware.technology)
        for b in (32, 256)
    )
    crossbar = 2 * 8 * 7 * 256 * 1.862 / 0.70 * (0.21 + 8 / 12 * 0.25) / 1e6
    assert eight.area_mm2 - one.area_mm2 == pytest.approx(crossbar)
    assert eight.read_pj_per_byte - one.read_pj_per_byte == pytest.approx(8 * 0.1 * crossbar**0.5)


# Attention and the lanes


def test_an_unrelated_product_hides_no_softmax():
    hardware = load_hardware("intaglio-64x64")
    labels = (Label("a.scores", "output", "attention_product"), Label("a.values", "output", "attention_product"))
    pair = ({"M": 4096, "N": 4096, "K": 40, "batch": 8}, {"M": 4096, "N": 40, "K": 4096, "batch": 8})
    softmax = ((Label("a", "output", "vector", "softmax"), 8 * 4096 * 4096),)
    other = {"M": 4096, "N": 4096, "K": 4096}
    alone = simulate(work(*pair, labels=labels, vector=softmax), hardware)
    # 3 cycles an element on 64 lanes, and the requantization of both products' results on the same lanes.
    requantized = (8 * 4096 * 4096 + 8 * 4096 * 40) / 64
    assert alone.latency_cycles == pytest.approx(8 * 4096 * 4096 * 3 / 64 + requantized)
    three = (*labels, Label("b", "output", "gemm"))
    beside = simulate(work(*pair, other, labels=three, vector=softmax), hardware)
    assert beside.latency_cycles == pytest.approx(alone.latency_cycles + simulate(work(other), hardware).latency_cycles)


def test_the_backward_pass_pays_its_second_exponential():
    step = attention(1024, 1024, 80, 8)
    fused = prepare(step, fused_attention=True)
    work_of = zip(fused.vector_labels, fused.vector_elements, strict=True)
    of_softmax = [count for label, count in work_of if label.kind == "softmax"]
    assert of_softmax == [8 * 1024 * 1024] * 3  # forward, its gradient, and the probabilities made again
    hardware = load_hardware("intaglio-64x64")
    assert simulate(step, hardware).latency_cycles >= 3 * 3 * 8 * 1024 * 1024 / 64


def test_own_design_on_sd15_is_no_faster_than_its_lanes():
    step = simulate(workload_of_trace(model_step("sd15", 16)), load_hardware("intaglio-64x64"))
    assert step.latency_ms > 586  # 519 with softmax for nothing


def test_scores_are_computed_again_once_a_backward_pass():
    """A checkpoint runs the forward pass twice, the backward pass once."""
    T, D = 64, 16
    query, key, value = (Operand(r, (T, D), "int8", 8, r) for r in ("query", "key", "value"))
    P, dS = (Operand(r, (T, T), "int8", 8, r) for r in ("probabilities", "grad_scores"))
    dO = Operand("grad_output", (T, D), "int8", 8, "dO")
    many = {"operation": "attention_product"}
    forward = [
        gemm_event("output", "attn.scores", query, key, M=T, N=T, K=D, **many),
        gemm_event("output", "attn.values", P, value, M=T, N=D, K=T, **many),
    ]
    backward = [
        gemm_event("grad_input", "attn.values.value", P, dO, M=T, N=D, K=T, **many),
        gemm_event("grad_input", "attn.values.probabilities", dO, value, M=T, N=T, K=D, **many),
        gemm_event("grad_input", "attn.scores.query", dS, key, M=T, N=D, K=T, **many),
        gemm_event("grad_input", "attn.scores.key", dS, query, M=T, N=D, K=T, **many),
    ]
    step = workload_of_trace(Trace(Header("one", ""), (*forward, *forward, *backward)))
    fused = prepare(step, fused_attention=True)
    scores = [label for label in fused.labels if label.layer == "attn.scores"]
    assert [label.again for label in scores] == [False, False, True]
    assert fused.products.macs[: fused.rows].sum() == 9 * T * T * D
    assert simulate(step, load_hardware("intaglio-64x64")).macs.sum() == 8 * T * T * D


def test_attention_in_blocks_by_hand():
    # 1024 tokens, 8 heads of 80: forward, 128 KiB hold B x (64 + 80) sums, so B = 227, rounded to 192: 6 blocks. Keys
    # and values of a head are 160 KiB, more than 128: they pass 6 times. Queries and results once.
    step = simulate(attention(1024, 1024, 80, 8), load_hardware("intaglio-64x64"))
    forward = np.array([label.pass_name == "output" for label in step.labels])
    head = 1024 * 80
    assert step.costs.dram_bytes[forward].sum() == 8 * (2 * head + 6 * 2 * head)


# Products and what is on chip


def test_a_transposed_product_keeps_what_is_on_chip():
    hardware = load_hardware(CDM).replaced(schedule__operand_swap=True)
    step = simulate(work({"M": 64, "N": 4096, "K": 4096, "left_on_chip": 1}), hardware)
    assert step.dram_bytes == 4096 * 4096 + 64 * 4096


@pytest.mark.parametrize(
    ("stored", "dataflow", "needs", "passes"),
    [
        ((ROW_MAJOR, TRANSPOSED), "weight_stationary", 1, 1),  # y = x W^T
        ((ROW_MAJOR, TRANSPOSED), "output_stationary", 2, 4),
        ((ROW_MAJOR, ROW_MAJOR), "weight_stationary", 0, 0),  # dx = g W
        ((ROW_MAJOR, ROW_MAJOR), "output_stationary", 1, 2),
        ((TRANSPOSED, ROW_MAJOR), "weight_stationary", 1, 2),  # dA = gh^T x
        ((TRANSPOSED, ROW_MAJOR), "output_stationary", 0, 0),
    ],
)
def test_what_a_transposition_costs(stored, dataflow, needs, passes):
    hardware = load_hardware(CDM)
    row = {"M": 128, "N": 128, "K": 128}
    lying = work(row | {"left_stored": stored[0], "right_stored": stored[1]})
    plain, turned = simulate(work(row), hardware, dataflow), simulate(lying, hardware, dataflow)
    # Stationary weights enter once, what streams once for each of two folds; a transposer fills in 64 cycles.
    assert turned.costs.transposed_bytes.sum() == passes * 128 * 128
    assert turned.costs.compute_cycles.sum() - plain.costs.compute_cycles.sum() == 64 * (needs > 0)
    by_lanes = simulate(lying, hardware.replaced(array__transposers=()), dataflow)
    extra = by_lanes.costs.vector_cycles.sum() - plain.costs.vector_cycles.sum()
    assert extra == needs * 128 * 128 / 64
    assert by_lanes.costs.sram_bytes.sum() - plain.costs.sram_bytes.sum() == needs * 2 * 128 * 128


def test_products_pack_only_when_the_operand_lies_the_same():
    """dS and dS^T are one tensor and two operands."""
    dS, Q, K = (Operand(r, (64, 64), "int8", 8, r) for r in ("grad_scores", "query", "key"))
    events = [
        gemm_event("grad_input", f"attn.scores.{name}", dS, other, M=64, N=64, K=64, operation="attention_product")
        for name, other in (("query", K), ("key", Q))
    ]
    assert prepare(workload_of_trace(Trace(Header("one", ""), tuple(events)))).groups == 0


# Tiles


@pytest.mark.parametrize(
    ("shape", "dimension", "at"),
    [((1056, 148, 127), "M", 555), ((640, 79, 2880), "N", 33), ((2880, 129, 160), "N", 104)],
)
def test_a_product_in_two_pieces_is_never_faster(shape, dimension, at):
    hardware = load_hardware("fixed-ws")
    row = dict(zip("MNK", shape, strict=True))
    whole = simulate(work(row), hardware).latency_cycles
    parts = (simulate(work(row | {dimension: n}), hardware).latency_cycles for n in (at, row[dimension] - at))
    assert whole <= sum(parts)


# Energy, and what does not fit


@pytest.mark.parametrize("name", sorted(shipped_hardware()))
def test_the_objective_energy_is_the_least_energy_of_a_step(name):
    step = workload_of_trace(model_step("dit", 4))
    hardware = load_hardware(name)
    energy = {
        objective: simulate(step, hardware.replaced(schedule__objective=objective)).energy_mj[1]
        for objective in ("energy", "latency", "energy_delay")
    }
    assert energy["energy"] == min(energy.values())


def test_a_float_product_that_fits_nowhere_is_an_error():
    hardware = load_hardware("fp16-fixed").replaced(buffers__weight__size_bytes=12288)
    with pytest.raises(UserError, match=r"needs 8,192 bytes of the weight buffer, usable are 6,144, short of 2,048"):
        simulate(work({"M": 64, "N": 64, "K": 64}), hardware)


def test_counts_do_not_overflow():
    step = simulate(work({"M": 2**21, "N": 2**21, "K": 2**21}), load_hardware(CDM))
    assert step.prepared.workload.macs == 2**63
    assert 0 < step.overall_utilization < 1


def test_sums_that_would_overflow_are_refused():
    hardware = load_hardware(CDM).replaced(array__accumulator_bits=27)
    with pytest.raises(UserError, match=r"row 0: a sum of K=5760 products of 8 by 8 bits needs 28 bits"):
        simulate(work({"M": 64, "N": 64, "K": 5760}), hardware)
    simulate(work({"M": 64, "N": 64, "K": 5760}), hardware.replaced(array__accumulator_bits=28))


@pytest.mark.parametrize(
    ("kind", "megabytes"),
    [("sgd", 20), ("adam", 28), ("adamw", 28), ("lion", 20), ("adamw8bit", 16), ("integeradamw", 10), ("prodigy", 28)],
)
def test_optimizer_bytes(kind, megabytes):
    vector = ((Label("", "optimizer", "vector", kind), 10**6),)
    step = simulate(work({"M": 64, "N": 64, "K": 64}, vector=vector), load_hardware(CDM))
    assert step.vector.dram_bytes.sum() == megabytes * 1e6


# Tables


def test_rows_add_up_when_fused_work_sticks_out():
    step = simulate(attention(4096, 4096, 40, 8), load_hardware("intaglio-64x64"))
    rows = list(operation_rows(step))
    assert sum(r["latency_cycles"] * r["count"] for r in rows) == pytest.approx(step.latency_cycles)
    energy = sum(r["energy_pj"] * r["count"] for r in rows)
    assert energy == pytest.approx(step.energy_parts_pj[:, 1].sum(), rel=1e-6)
    assert any(r["operation"] == "softmax" and r["latency_cycles"] for r in rows)
    assert sum(r["useful_macs"] * r["count"] for r in rows) == step.prepared.workload.macs


# Exploration


@pytest.mark.parametrize("name", sorted(shipped_hardware()))
def test_a_point_without_axes_is_the_base(name):
    base = load_hardware(name).replaced(buffers__output__bandwidth_bytes_per_cycle=40, vector__lanes=7)
    assert design_at(base, {}) == base
    point = {"rows": base.array.rows, "cols": base.array.cols, "bits": base.array.operand_bits}
    assert design_at(base, point) == base


def test_ports_and_lanes_follow_the_array():
    design = design_at(load_hardware(CDM), {"rows": 32, "cols": 128})
    ports = [b.bandwidth_bytes_per_cycle for b in (design.buffers.input, design.buffers.weight, design.buffers.output)]
    assert ports == [32, 128, 512]
    assert design.vector.lanes == 128


def test_every_part_of_a_step_is_in_its_digest():
    row = {"M": 64, "N": 64, "K": 64}
    label, vector = Label("a", "output", "gemm"), ((Label("a", "output", "vector", "add"), 10),)
    steps = [
        work(row, labels=(label,)),
        work(row | {"left_bits": 4}, labels=(label,)),
        work(row | {"left_on_chip": 1}, labels=(label,)),
        work(row | {"taps": 9, "reach": 3}, labels=(label,)),
        work(row, labels=(Label("a", "output", "gemm", shared="x"),)),
        work(row, labels=(label,), vector=vector),
        work(row, labels=(label,), vector=((vector[0][0], 11),)),
    ]
    assert len({digest_of_step(step) for step in steps}) == len(steps)
    assert digest_of_step(steps[0]) == digest_of_step(work(row, labels=(label,)))


# Files


def changed(tmp_path, *pairs, name=CDM):
    text = shipped_hardware()[name].read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "bad.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("clock_mhz = 500", "clock_mhz = inf", "array.clock_mhz: input should be a finite number"),
        ("clock_mhz = 500", "clock_mhz = 5000", "array.clock_mhz = 5000 is beyond the 1659 MHz"),
        ("latency_ns = 100", "latency_ns = inf", "dram.latency_ns: input should be a finite number"),
        ("bandwidth_gbytes_per_s = 25.6", "bandwidth_gbytes_per_s = inf", "input should be a finite number"),
        ("pj_per_bit_high = 9.0", "pj_per_bit_high = inf", "input should be a finite number"),
        ("lanes = 64", 'lanes = 64\nfused = ["softmx"]', r"unknown kind 'softmx' \(did you mean 'softmax'\?\)"),
        ("lanes = 64", "lanes = 64\ncycles_per_element = { softmx = 1 }", "unknown kind 'softmx'"),
        ('"buffers" =', '"buffers.nonsense" =', "'buffers.nonsense' names no part of the hardware"),
        ('number = "integer"', 'number = "float"', "a float array has operand_bits and accumulator_bits of 16 or 32"),
        ("accumulator_bits = 32", "accumulator_bits = 2", "accumulator_bits must be 16 or more, to hold one product"),
        ('overlap = "wavefront"', 'overlap = "none"', "'none' is SCALE-Sim's count and no array"),
    ],
)
def test_what_a_hardware_file_may_not_say(tmp_path, old, new, message):
    with pytest.raises(UserError, match=message):
        load_hardware(changed(tmp_path, (old, new)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("M,N,K\n4,096,64,64\n", "line 2: 4 cells under 3 columns; a number has no commas"),
        ("M,N,K,M\n1,2,3,4\n", "column M twice"),
        ("M,N,K,bits\n1,2,3,1000\n", "line 2: bits must be at most 64, got 1000"),
        ("M,N,K\n1000000000,2,3\n", r"line 2: M must be at most 2\^28"),
        ("M,N,K\n4194304,4194304,4194304\n", r"line 2: 7.38e\+19 multiply-accumulates, expected at most 2\^63"),
        ('name,M,N,K\n"=HYPERLINK(1)",1,2,3\n', "line 2: the name '=HYPERLINK\\(1\\)' is a formula to a spreadsheet"),
        ("M,N,K\n\u0661,2,3\n", "line 2: M must be a positive integer"),
    ],
)
def test_what_a_csv_may_not_say(tmp_path, text, message):
    path = tmp_path / "w.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_csv_workload(path)


def test_a_trailing_comma_is_no_cell(tmp_path):
    (tmp_path / "w.csv").write_text("M,N,K,\n1,2,3,\n")
    assert load_csv_workload(tmp_path / "w.csv").macs == 6


def test_a_trace_that_is_cut_off(tmp_path):
    step = model_step("dit", 4)
    write_trace(tmp_path / "t.jsonl.gz", step.header, step.events)
    whole = (tmp_path / "t.jsonl.gz").read_bytes()
    (tmp_path / "t.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="the compressed file is cut off or damaged"):
        load_trace_workload(tmp_path / "t.jsonl.gz")
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(b"\x00" * 100))
    with pytest.raises(UserError, match="not JSON"):
        load_trace_workload(tmp_path / "t.jsonl.gz")


def test_a_trace_with_a_formula_for_a_name(tmp_path):
    step = model_step("dit", 4)
    write_trace(tmp_path / "t.jsonl", step.header, step.events[:20])
    text = (tmp_path / "t.jsonl").read_text().replace('"layer":"caption_projection.linear_1"', '"layer":"=1+1"', 1)
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(UserError, match="the name '=1\\+1' is a formula to a spreadsheet"):
        load_trace_workload(tmp_path / "t.jsonl")


def test_bad_input_is_one_line_at_the_command_line(tmp_path):
    (tmp_path / "w.csv").write_text("M,N,K\n4,096,64,64\n")
    arguments = ["--workload", str(tmp_path / "w.csv"), "--hardware", CDM, "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(simulate_command.command, arguments)
    assert isinstance(result.exception, UserError)
    assert len(str(result.exception).splitlines()) == 2  # the file, and the line


def test_accumulators_and_second_registers_take_energy():
    one, two = (prices_of(load_hardware(CDM).replaced(array__overlap=o)) for o in ("wavefront", "shadow"))
    assert two.register_pj[1] > one.register_pj[1]
    # An addition of 32 bits at 3.1 fJ a bit, scaled from 45 to 28 nm.
    assert one.accumulate_pj[1] == pytest.approx(32 * 0.0031 * 0.5066, rel=1e-4)


# Beside published chips


def test_chips_are_compared_on_their_own_terms():
    step = simulate(workload_of_trace(model_step("dit", 4)), load_hardware(CDM))
    chips = {chip.design: chip for chip in published_chips()}
    assert {"BF16 fine-tuning chip", "Voltra", "SIGMA", "Cambricon-Q"} <= chips.keys()
    assert not chips["FP8 trainer"].dense  # its figure counts operations that sparsity skips
    peak, effective = peak_efficiency(step.hardware), step_efficiency(step)
    assert (peak.gops_per_mm2 > effective.gops_per_mm2).all()
    assert (peak.tops_per_w > effective.tops_per_w).all()
    assert efficiency_beside(chips["Cambricon-Q"], step).gops_per_mm2.tolist() == peak.gops_per_mm2.tolist()
    assert efficiency_beside(chips["SIGMA"], step).gops_per_mm2.tolist() == effective.gops_per_mm2.tolist()
    # 4096 PEs at 500 MHz are 4.096 TOPS.
    assert peak.gops_per_mm2[1] == pytest.approx(4096 / float(area_of(step.hardware).total_mm2[1]))
    # 16 nm to 28 nm at nominal supply: area 0.19 / 0.3767, so 1250 GOPS/mm2 are 631.
    assert chips["Voltra"].gops_per_mm2 == pytest.approx(1250 * 0.19 / (0.21 + 8 / 12 * 0.25))
