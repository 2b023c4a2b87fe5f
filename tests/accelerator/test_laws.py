"""Laws that any cost model of an accelerator obeys, over random products on designs of every kind."""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from intaglio.accelerator.dataflow import ARRAY_OVERLAPS
from intaglio.accelerator.hardware import Hardware, load_hardware
from intaglio.accelerator.products import products_of
from intaglio.accelerator.simulate import StepCost, simulate
from intaglio.accelerator.tables import operation_rows
from intaglio.accelerator.workload import Label, Workload

DESIGNS = ("cdm-qta-32x32", "fixed-os", "fp16-equal-area", "intaglio-64x64")
EXACT = 1 + 1e-9
ODD = (1, 3, 31, 33, 64, 65, 77, 127, 129, 320, 640, 2880, 4096)


@cache
def gemms() -> tuple[tuple[int, int, int, int], ...]:
    """(M, N, K, batch), odd shapes first."""
    rng = np.random.default_rng(7)
    shapes = [
        (1056, 148, 127, 1),
        (640, 79, 2880, 1),
        (46, 128, 5171, 8),
        (3, 17, 16, 2),
        (1, 1, 1, 1),
        (4096, 16, 320, 1),
    ]
    for _ in range(10):
        M, N, K = (int(rng.choice(ODD)) if rng.random() < 0.5 else int(2 ** rng.uniform(0, 12)) for _ in range(3))
        shapes.append((M, N, K, int(rng.choice([1, 1, 2, 8]))))
    return tuple(shapes)


def workload(shapes, **more: int) -> Workload:
    rows = [dict(zip(("M", "N", "K", "batch"), shape, strict=True)) | more for shape in shapes]
    labels = tuple(Label(f"row {i}", "output", "gemm") for i in range(len(rows)))
    return Workload("laws", "", products_of(rows), labels, (), np.zeros(0, dtype=np.int64), {})


def latency(hardware: Hardware, shapes=None, **more: int) -> np.ndarray:
    return simulate(workload(shapes or gemms(), **more), hardware).costs.latency_cycles


@pytest.fixture(scope="module", params=DESIGNS)
def design(request) -> tuple[Hardware, StepCost]:
    hardware = load_hardware(request.param)
    return hardware, simulate(workload(gemms()), hardware)


def test_bounds(design):
    hardware, step = design
    array, costs = hardware.array, step.costs
    M, N, K, batch = np.array(gemms()).T
    macs, bits = M * N * K * batch, array.operand_bits
    compulsory = batch * ((M * K + K * N) * bits + M * N * array.result_bits) / 8
    assert (costs.latency_cycles >= macs / array.pes).all()
    assert (costs.dram_bytes >= compulsory - 1e-6).all()
    assert (costs.latency_cycles >= costs.dram_bytes / hardware.dram_bytes_per_cycle).all()
    least = macs * step.prices.mac_pj[1] + compulsory * step.prices.dram_pj_per_byte[1]
    assert (costs.energy_pj[..., 1].sum(axis=1) >= least / EXACT).all()


MORE = {
    "bandwidth": lambda h: {"dram__bandwidth_gbytes_per_s": 2 * h.dram.bandwidth_gbytes_per_s},
    "DRAM latency": lambda h: {"dram__latency_ns": h.dram.latency_ns / 2},
    "lanes": lambda h: {"vector__lanes": 2 * h.vector.lanes},
    "both dataflows": lambda h: {"array__modes": ("weight_stationary", "output_stationary")},
    "swapped operands": lambda h: {"schedule__operand_swap": True},
    **{
        f"{b} SRAM": lambda h, b=b: {f"buffers__{b}__size_bytes": 2 * getattr(h.buffers, b).size_bytes}
        for b in ("input", "weight", "output")
    },
    **{
        f"{b} port": lambda h, b=b: {
            f"buffers__{b}__bandwidth_bytes_per_cycle": 2 * getattr(h.buffers, b).bandwidth_bytes_per_cycle
        }
        for b in ("input", "weight", "output")
    },
}


@pytest.mark.parametrize("more", MORE)
def test_one_resource_more_is_never_slower(design, more):
    hardware, step = design
    assert (latency(hardware.replaced(**MORE[more](hardware))) <= step.costs.latency_cycles * EXACT).all()


@pytest.mark.parametrize("flag", ["temporal_tiling", "cut", "split", "operand_swap"])
def test_a_schedule_with_more_choice_is_never_slower(design, flag):
    hardware, _ = design
    off, on = (latency(hardware.replaced(**{f"schedule__{flag}": value})) for value in (False, True))
    assert (on <= off * EXACT).all()


def test_more_overlap_is_never_slower(design):
    hardware, _ = design
    times = [latency(hardware.replaced(array__overlap=overlap)) for overlap in ARRAY_OVERLAPS]
    for slower, faster in pairwise(times):
        assert (faster <= slower * EXACT).all()


def test_sub_arrays_are_a_choice(design):
    hardware, _ = design
    whole, parts = (latency(hardware.replaced(array__partition=p)) for p in ("1x1", "2x2"))
    assert (parts <= whole * EXACT).all()


def test_one_port_is_never_faster(design):
    hardware, step = design
    for buffer in ("input", "weight", "output"):
        assert (
            latency(hardware.replaced(**{f"buffers__{buffer}__ports": 1})) >= step.costs.latency_cycles / EXACT
        ).all()


def test_single_buffers_add_dram_to_the_array(design):
    hardware, _ = design
    costs = simulate(workload(gemms()), hardware.replaced(buffers__double_buffered=False)).costs
    assert (costs.latency_cycles >= (costs.compute_cycles + costs.dram_cycles) / EXACT).all()


def test_an_objective_does_what_it_says(design):
    hardware, _ = design
    figures = {}
    for objective in ("latency", "energy", "energy_delay"):
        step = simulate(workload(gemms()), hardware.replaced(schedule__objective=objective))
        time = step.costs.latency_cycles
        energy = step.costs.energy_pj[..., 1].sum(axis=1) + time * step.prices.leakage_pj_per_cycle[1]
        figures[objective] = {"latency": time, "energy": energy, "energy_delay": time * energy}
    for objective, of in figures.items():
        for other in figures.values():
            assert (of[objective] <= other[objective] * EXACT).all(), objective


def test_rearranging_changes_nothing(design):
    hardware, step = design
    order = np.random.default_rng(0).permutation(len(gemms()))
    assert (latency(hardware, [gemms()[i] for i in order]) == step.costs.latency_cycles[order]).all()
    three = simulate(workload(gemms(), count=3), hardware)
    assert three.latency_cycles == pytest.approx(3 * step.latency_cycles)
    singles = latency(hardware, [(*shape[:3], 1) for shape in gemms()])
    assert (step.costs.latency_cycles <= np.array(gemms())[:, 3] * singles * EXACT).all()


@pytest.mark.parametrize("dimension", [0, 1, 2])
def test_less_work_is_never_slower(design, dimension):
    """But by a cycle, where a share of a few elements is rounded up."""
    hardware, step = design
    rng = np.random.default_rng(dimension)
    less = [list(shape) for shape in gemms()]
    for shape in less:
        shape[dimension] -= int(rng.integers(0, 1 + shape[dimension] // 4)) if shape[dimension] > 1 else 0
    assert (latency(hardware, less) <= step.costs.latency_cycles + 1).all()


@pytest.mark.parametrize("dimension", [0, 1])
def test_two_pieces_are_never_faster_than_the_whole(design, dimension):
    hardware, step = design
    rng = np.random.default_rng(dimension)
    cuts = [int(rng.integers(1, max(2, shape[dimension]))) for shape in gemms()]
    parts = []
    for first in (True, False):
        cut = [list(shape) for shape in gemms()]
        for shape, at in zip(cut, cuts, strict=True):
            shape[dimension] = max(1, at if first else shape[dimension] - at)
        parts.append(latency(hardware, cut))
    assert (step.costs.latency_cycles <= (parts[0] + parts[1]) * EXACT).all()


def test_narrower_operands_are_never_slower(design):
    hardware, step = design
    if hardware.array.number == "integer":
        assert (latency(hardware, left_bits=4, right_bits=4) <= step.costs.latency_cycles * EXACT).all()


def test_the_transposed_product_costs_the_same():
    hardware = load_hardware("intaglio-64x64")
    turned = [(N, M, K, batch) for M, N, K, batch in gemms()]
    assert (latency(hardware, turned) == latency(hardware)).all()


@pytest.mark.parametrize("where", ["left_on_chip", "right_on_chip", "result_on_chip"])
def test_what_is_on_chip_never_travels(design, where):
    hardware, step = design
    M, N, K, batch = np.array(gemms()).T
    array = hardware.array
    parts = {
        "left_on_chip": M * K * array.operand_bits,
        "right_on_chip": K * N * array.operand_bits,
        "result_on_chip": M * N * array.result_bits,
    }
    others = sum(batch * bits / 8 for name, bits in parts.items() if name != where)
    costs = simulate(workload(gemms(), **{where: 1}), hardware).costs
    assert (costs.dram_bytes >= others - 1e-6).all()
    assert (costs.latency_cycles <= step.costs.latency_cycles * EXACT).all()


def test_rows_add_up(design):
    hardware, step = design
    rows = list(operation_rows(replace(step, hardware=hardware)))
    assert sum(r["latency_cycles"] * r["count"] for r in rows) == pytest.approx(step.latency_cycles)
    energy = sum(r["energy_pj"] * r["count"] for r in rows)
    assert energy == pytest.approx(step.energy_parts_pj[:, 1].sum(), rel=1e-6)
