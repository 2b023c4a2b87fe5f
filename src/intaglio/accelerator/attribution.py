"""How much of a design's gain is precision, dataflow, overlap, packing, partition, attention on chip.

Features interact, so "switch them on one after another" depends on the order. Here every subset is simulated, and a
feature's
factor is its Shapley value in the logarithm: the mean, over all orders, of what it adds. The factors multiply to the
whole gain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

from intaglio.accelerator.dataflow import TWO_REGISTERS
from intaglio.accelerator.hardware import Hardware
from intaglio.accelerator.schedule import Prepared, prepare
from intaglio.accelerator.simulate import simulate_prepared
from intaglio.accelerator.workload import Workload

# What takes a feature away.
WITHOUT: dict[str, dict[str, object]] = {
    "precision": {
        "array__number": "float",
        "array__operand_bits": 16,
        "array__accumulator_bits": 32,
        "array__result_bits": 16,
    },
    "dataflow": {"array__modes": ("weight_stationary",), "schedule__operand_swap": False},
    "overlap": {"array__overlap": "wavefront"},
    "packing": {"schedule__packing": False},
    "partition": {"array__partition": "1x1", "schedule__split": False},
    "attention on chip": {"schedule__fused_attention": False},
}


@dataclass(frozen=True)
class Attribution:
    """Factors of latency and of energy, baseline over design, above 1 is a gain; products of the parts are the
    whole."""

    baseline_ms: float
    design_ms: float
    speed_up: dict[str, float]
    energy: dict[str, float]


def features_of(hardware: Hardware) -> list[str]:
    """The features that this design has."""
    array, schedule = hardware.array, hardware.schedule
    has = {
        "precision": array.number == "integer" and array.operand_bits < 16,
        "dataflow": len(set(array.modes)) > 1 or schedule.operand_swap,
        "overlap": array.overlap in TWO_REGISTERS,
        "packing": schedule.packing,
        "partition": array.partition != "1x1",
        "attention on chip": schedule.fused_attention,
    }
    return [name for name, present in has.items() if present]


def attribute(workload: Workload, hardware: Hardware) -> Attribution:
    """Simulate every subset of the design's features over a weight-stationary array (FP16 where precision is a
    feature)."""
    features = features_of(hardware)
    prepared = {fused: prepare(workload, fused) for fused in {False, hardware.schedule.fused_attention}}
    latency: dict[frozenset[str], float] = {}
    energy: dict[frozenset[str], float] = {}
    for size in range(len(features) + 1):
        for subset in combinations(features, size):
            chosen = frozenset(subset)
            latency[chosen], energy[chosen] = _simulate(prepared, hardware, set(features) - chosen)
    none, all_ = frozenset(), frozenset(features)
    return Attribution(latency[none], latency[all_], _shapley(features, latency), _shapley(features, energy))


def _simulate(prepared: dict[bool, Prepared], hardware: Hardware, missing: set[str]) -> tuple[float, float]:
    changes = {path: value for name in missing for path, value in WITHOUT[name].items()}
    if "precision" in missing:  # the FP16 array keeps its ports one element a row and a column wide
        scale = 16 / hardware.array.operand_bits
        for buffer in ("input", "weight"):
            wide = getattr(hardware.buffers, buffer).bandwidth_bytes_per_cycle * scale
            changes[f"buffers__{buffer}__bandwidth_bytes_per_cycle"] = wide
    design = hardware.replaced(**changes)
    step = simulate_prepared(prepared[design.schedule.fused_attention], design)
    return step.latency_ms, float(step.energy_mj[1])


def _shapley(features: list[str], value: dict[frozenset[str], float]) -> dict[str, float]:
    """Factor of each feature: exp of the mean drop of log(value) over all orders."""
    n = len(features)
    factors = {}
    for feature in features:
        others = [f for f in features if f != feature]
        total = 0.0
        for size in range(n):
            weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
            for subset in combinations(others, size):
                before = frozenset(subset)
                total += weight * math.log(value[before] / value[before | {feature}])
        factors[feature] = math.exp(total)
    return factors
