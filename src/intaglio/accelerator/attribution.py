"""How much of a design's gain is precision, dataflow, overlap, packing, partition, attention on chip.

Features interact, so "switch them on one after another" depends on the order. Here every subset is simulated, and a
feature's factor is its Shapley value in the logarithm: the mean, over all orders, of what it adds. The factors multiply
to the whole gain. A subset whose buffers do not hold attention's scores (in FP16 they take four times the room) has no
attention on chip, whatever it asks for. No product is cut in two here (`schedule.cut`): worth a thousandth, and most of
the time of a simulation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

from intaglio.accelerator.cost import ScoresDoNotFit
from intaglio.accelerator.features import Feature, features_of
from intaglio.accelerator.hardware import Hardware
from intaglio.accelerator.schedule import Prepared, prepare
from intaglio.accelerator.simulate import simulate_prepared
from intaglio.accelerator.workload import Workload


@dataclass(frozen=True)
class Attribution:
    """Factors of latency and of energy, baseline over design, above 1 is a gain; the parts multiply to the whole."""

    baseline_ms: float
    design_ms: float
    speed_up: dict[str, float]
    energy: dict[str, float]


def attribute(workload: Workload, hardware: Hardware) -> Attribution:
    """Simulate every subset of the design's features over a weight-stationary array (FP16 where precision is a
    feature)."""
    present = {feature.name: feature for feature in features_of(hardware)}
    features = list(present)
    prepared = {fused: prepare(workload, fused) for fused in {False, hardware.schedule.fused_attention}}
    latency: dict[frozenset[str], float] = {}
    energy: dict[frozenset[str], float] = {}
    for size in range(len(features) + 1):
        for subset in combinations(features, size):
            chosen = frozenset(subset)
            missing = [feature for name, feature in present.items() if name not in chosen]
            latency[chosen], energy[chosen] = _simulate(prepared, hardware, missing)
    none, all_ = frozenset(), frozenset(features)
    return Attribution(latency[none], latency[all_], _shapley(features, latency), _shapley(features, energy))


def _simulate(prepared: dict[bool, Prepared], hardware: Hardware, missing: list[Feature]) -> tuple[float, float]:
    changes = {path: value for feature in missing for path, value in feature.without(hardware).items()}
    design = hardware.replaced(**changes, schedule__cut=False)
    try:
        step = simulate_prepared(prepared[design.schedule.fused_attention], design)
    except ScoresDoNotFit:
        step = simulate_prepared(prepared[False], design.replaced(schedule__fused_attention=False))
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
