"""Costs of steps: definitions, monotonicity, and one figure by hand."""

import dataclasses
import time

import numpy as np
import pytest

from intaglio.accelerator.attribution import attribute
from intaglio.accelerator.baselines import BASELINES, baselines_of
from intaglio.accelerator.dataflow import DATAFLOWS, OVERLAPS, compute_cycles
from intaglio.accelerator.energy import PARTS, ratio_interval
from intaglio.accelerator.features import features_of
from intaglio.accelerator.hardware import PLAIN, load_hardware, shipped_hardware
from intaglio.accelerator.model_steps import model_step
from intaglio.accelerator.schedule import prepare
from intaglio.accelerator.simulate import simulate, simulate_prepared
from intaglio.accelerator.tables import grouped_rows, operation_rows
from intaglio.accelerator.workload import Workload, products_of, workload_of_trace
from intaglio.errors import UserError


@pytest.fixture(scope="module")
def sd15():
    return workload_of_trace(model_step("sd15", 16))


def products(*shapes) -> Workload:
    rows = products_of([{"M": m, "N": n, "K": k} for m, n, k in shapes])
    from intaglio.accelerator.workload import Label

    labels = tuple(Label(f"row {i}", "output", "gemm") for i in range(len(rows)))
    return Workload("test", "", rows, labels, (), np.zeros(0, dtype=np.int64), {})


SHAPES = [(64, 4, 1280), (4096, 320, 320), (16, 640, 1024), (1, 1, 1), (77, 320, 768), (4096, 320, 4)]


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_row_by_row_cycles_are_the_closed_form(dataflow, overlap):
    hardware = load_hardware("cdm-qta-32x32").replaced(array__overlap=overlap, schedule=PLAIN.model_dump())
    step = simulate(products(*SHAPES), hardware, dataflow)
    M, N, K = np.array(SHAPES).T
    expected = compute_cycles(M, N, K, rows=32, cols=32, dataflow=dataflow, overlap=overlap)
    assert step.costs.compute_cycles.tolist() == expected.tolist()
    assert (step.costs.stall_cycles >= 0).all()


def test_latency_by_hand():
    # 64 x 64 x 64 on 64 x 64: one fold of 2 * 64 + 64 + 64 - 2 = 254 cycles. Three operands of 4096 bytes over 51.2
    # bytes a cycle take 240, of which the store of the results (80) is last, and in WS the load of the weights
    # (80) first; OS wins. Requantizing 4096 results on 64 lanes takes 64; DRAM answers after 100 ns = 50 cycles.
    step = simulate(products((64, 64, 64)), load_hardware("cdm-qta-64x64"))
    assert float(step.costs.compute_cycles[0]) == 254
    assert float(step.costs.dram_cycles[0]) == 240
    assert float(step.costs.latency_cycles[0]) == 254 + 80 + 50
    ws = simulate(products((64, 64, 64)), load_hardware("fixed-ws"))
    assert float(ws.costs.latency_cycles[0]) == 80 + 254 + 80 + 50
    assert step.costs.dram_bytes.tolist() == [3 * 4096]


def test_energy_by_hand():
    # DRAM: 12288 bytes at 7 pJ a bit. MAC: 64^3 at (0.0031 * 64 + 0.0031 * 32) pJ, scaled from 45 nm to 28 nm at 0.9
    # V (0.5066); and 64^2 additions to what the output buffer holds.
    step = simulate(products((64, 64, 64)), load_hardware("cdm-qta-64x64"))
    typical = dict(zip(PARTS, step.energy_parts_pj[:, 1], strict=True))
    assert typical["dram"] == pytest.approx(12288 * 8 * 7)
    assert typical["mac"] == pytest.approx((64**3 * 96 + 64**2 * 32) * 0.0031 * 0.5066, rel=1e-4)


def test_a_choice_is_never_slower_than_a_fixed_dataflow(sd15):
    hardware = load_hardware("cdm-qta-64x64")
    best = simulate(sd15, hardware).costs.latency_cycles
    for dataflow in DATAFLOWS:
        assert (best <= simulate(sd15, hardware, dataflow).costs.latency_cycles).all()


@pytest.mark.parametrize(
    "change",
    [
        {"array__overlap": "shadow"},
        {"array__partition": "2x2", "schedule__split": True},
        {"schedule__packing": True},
        {"schedule__operand_swap": True},
        {"dram__bandwidth_gbytes_per_s": 100},
        {"buffers__weight__size_bytes": 2**20},
    ],
)
def test_more_hardware_never_takes_longer(sd15, change):
    hardware = load_hardware("cdm-qta-64x64")
    assert simulate(sd15, hardware.replaced(**change)).product_cycles <= simulate(sd15, hardware).product_cycles


def test_work_is_conserved(sd15):
    for name in ("cdm-qta-64x64", "intaglio-64x64"):
        step = simulate(sd15, load_hardware(name))
        rows = list(operation_rows(step))
        groups = grouped_rows(rows, "pass", step.hardware.array.pes)
        again = sum(r["macs"] - r["useful_macs"] for r in rows)
        assert sum(g["useful_macs"] for g in groups) == sd15.macs
        assert sum(g["macs"] for g in groups) == sd15.macs + again
        assert (again > 0) == step.hardware.schedule.fused_attention
        of_passes = {g["pass"]: g["overall_utilization"] for g in groups}
        useful = sum(r["useful_macs"] for r in rows if r["pass"] == "grad_input")
        time = sum(r["latency_cycles"] for r in rows if r["pass"] == "grad_input")
        assert of_passes["grad_input"] == pytest.approx(useful / (4096 * time), abs=1e-6)
        assert sum(g["latency_cycles"] for g in groups) == pytest.approx(step.latency_cycles, rel=1e-6)
        assert sum(g["energy_pj"] for g in groups) == pytest.approx(step.energy_parts_pj[:, 1].sum(), rel=1e-6)
        assert 0 < step.overall_utilization < 1
        low, typical, high = step.energy_mj
        assert low < typical < high


def test_packing_runs_products_that_share_an_operand_together(sd15):
    step = simulate(sd15, load_hardware("intaglio-64x64"))
    text = [
        i for i, label in enumerate(step.labels) if label.layer.endswith("attn2.to_k") and label.pass_name == "output"
    ]
    assert {int(step.packed[i]) for i in text} == {32 + 32}  # every text key and value, and their lora_A
    assert step.share[text].sum() < 1


def test_baselines_of_cdm_qta_are_the_shipped_files():
    derived = baselines_of(load_hardware("cdm-qta-64x64"))
    assert tuple(derived) == BASELINES
    for name, hardware in derived.items():
        words = {"description", "assumed"}
        assert hardware.model_dump(exclude=words) == load_hardware(name).model_dump(exclude=words)


def test_factors_multiply_to_the_whole_gain(sd15):
    hardware = load_hardware("cdm-qta-64x64").replaced(array__overlap="shadow", schedule__packing=True)
    found = attribute(sd15, hardware)
    assert list(found.speed_up) == ["precision", "dataflow", "overlap", "packing"]
    assert list(found.speed_up) == [feature.name for feature in features_of(hardware)]
    assert np.prod(list(found.speed_up.values())) == pytest.approx(found.baseline_ms / found.design_ms)
    for figure, design in ((found.design_ms, hardware), (found.baseline_ms, load_hardware("fp16-fixed"))):
        assert figure == pytest.approx(simulate(sd15, design.replaced(schedule__cut=False)).latency_ms)


def test_ratio_interval_moves_prices_together():
    energy = np.array([[1.0, 2.0, 4.0]] + [[0.0] * 3] * (len(PARTS) - 1))
    assert ratio_interval(3 * energy, energy).tolist() == [3, 3, 3]


def test_a_float_array_runs_the_unquantized_step(sd15):
    step = simulate(sd15, load_hardware("fp16-fixed"))
    assert not any(label.kind == "quantize" for label in step.vector.labels)
    # sums that leave the chip are 32 bits wide in both
    assert step.dram_bytes > 1.8 * simulate(sd15, load_hardware("fixed-ws")).dram_bytes


def test_a_dataflow_that_the_hardware_lacks():
    with pytest.raises(UserError, match="fixed-ws has no output_stationary mode, only weight_stationary; choose"):
        simulate(products((1, 1, 1)), load_hardware("fixed-ws"), "output_stationary")


def test_a_product_that_fits_nowhere_names_its_layer():
    hardware = load_hardware("cdm-qta-64x64").replaced(buffers__output__size_bytes=100)
    with pytest.raises(UserError, match=r"row 1: the product M=77 N=320 K=768 does not fit"):
        simulate(products((1, 1, 1), (77, 320, 768)), hardware)


def test_every_shipped_design_runs_a_real_step_in_two_seconds(sd15):
    for name in shipped_hardware():
        started = time.process_time()
        step = simulate(sd15, load_hardware(name))
        assert np.isfinite(step.latency_cycles)
        assert time.process_time() - started < 2.0


def test_a_prepared_step_costs_the_same(sd15):
    prepared = prepare(sd15)
    for name in ("cdm-qta-64x64", "fixed-os", "cdm-qta-64x64"):
        hardware = load_hardware(name)
        assert simulate_prepared(prepared, hardware).latency_cycles == simulate(sd15, hardware).latency_cycles


def test_results_do_not_depend_on_equal_rows_being_merged():
    shapes = [(100, 30, 50), (100, 30, 50), (7, 9, 11)]
    merged = simulate(products(*shapes), load_hardware("cdm-qta-32x32"))
    single = [simulate(products(s), load_hardware("cdm-qta-32x32")) for s in shapes]
    assert merged.latency_cycles == sum(s.latency_cycles for s in single)
    assert dataclasses.asdict(merged.costs.take(np.array([0])))["latency_cycles"] == single[0].costs.latency_cycles
