"""What the report shows of a step, as numbers: where the time goes, utilization by part, comparison with baselines
and chips."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from intaglio.accelerator.area import area_of
from intaglio.accelerator.constants import Interval
from intaglio.accelerator.energy import PARTS, ratio_interval
from intaglio.accelerator.hardware import Hardware
from intaglio.accelerator.schedule import Prepared
from intaglio.accelerator.simulate import StepCost, simulate_prepared
from intaglio.accelerator.workload import Label

PAPER = {
    "speed-up": 1.81,
    "energy efficiency": 5.50,
    "energy efficiency over prior work": 1.64,
    "area efficiency over prior work": 1.83,
}


@dataclass(frozen=True)
class Comparison:
    """A design over one baseline on the same step; intervals where sources disagree."""

    baseline: str
    speed_up: float
    energy_efficiency: Interval
    on_chip_energy_efficiency: Interval  # without DRAM
    area_efficiency: Interval


def kind_of(label: Label) -> str:
    """Coarse kind of a product."""
    if label.operation == "attention_product":
        return "attention"
    if "lora" in label.layer.lower():
        return "LoRA"
    return "convolution" if label.operation == "conv2d" else "linear"


def part_of(label: Label) -> str:
    """Part of the network: `down_blocks.0`, `mid_block`, ...; what lies outside blocks is `other`."""
    pieces = label.layer.split(".")
    if "block" not in pieces[0]:
        return "other"
    return ".".join(pieces[:2]) if len(pieces) > 1 and pieces[1].isdecimal() else pieces[0]


def time_parts(step: StepCost) -> dict[str, dict[str, float]]:
    """Milliseconds of the step by kind and pass: multiplying, array overhead, waiting; vector work by pass."""
    costs, weight = step.costs, step.weight
    to_ms = 1 / (step.hardware.array.clock_mhz * 1e3)
    useful = step.executed_macs / step.hardware.array.pes
    dram_bound = costs.dram_cycles >= np.maximum(costs.buffer_cycles, costs.vector_cycles)
    groups: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for i, label in enumerate(step.labels):
        group = groups[f"{kind_of(label)}, {label.pass_name}"]
        group["multiplying"] += useful[i] * to_ms
        group["padding, loading, skew"] += (costs.compute_cycles[i] * weight[i] - useful[i]) * to_ms
        waits = "waiting for DRAM" if dram_bound[i] else "waiting on chip"
        group[waits] += costs.stall_cycles[i] * weight[i] * to_ms
    for i, label in enumerate(step.vector.labels):
        if step.vector.latency_cycles[i]:
            name = "optimizer" if label.pass_name == "optimizer" else "norms, adds, softmax"
            name = "what did not fit beside the array" if step.vector.fused[i] else name
            groups[name]["vector unit"] += step.vector.latency_cycles[i] * to_ms
    return {name: dict(group) for name, group in sorted(groups.items(), key=lambda g: -sum(g[1].values()))}


def roofline_points(step: StepCost) -> list[dict[str, object]]:
    """One point a shape, pass and mapping: operations a DRAM byte, achieved TOPS, share of the products' time."""
    costs, share = step.costs, step.share
    operations = 2 * step.executed_macs / step.count
    intensity = operations / np.maximum(costs.dram_bytes * share, 1)
    tops = operations / (costs.latency_cycles * share / (step.hardware.array.clock_mhz * 1e6)) / 1e12
    time = costs.latency_cycles * step.weight / step.product_cycles
    sums: dict[tuple[str, float, float], float] = defaultdict(float)
    for i, label in enumerate(step.labels):
        sums[label.pass_name, float(intensity[i]), float(tops[i])] += float(time[i])
    return [{"pass": name, "operations_per_byte": x, "tops": y, "time_share": t} for (name, x, y), t in sums.items()]


def utilization_map(step: StepCost) -> tuple[np.ndarray, list[str], list[str]]:
    """Overall utilization (parts, kinds and passes); NaN where there is no product."""
    parts = list(dict.fromkeys(part_of(label) for label in step.labels))
    if len(parts) > 14:
        parts = list(dict.fromkeys(part.split(".")[0] for part in parts))
    columns = [
        (kind, p)
        for kind in ("convolution", "linear", "attention", "LoRA")
        for p in ("output", "grad_input", "grad_weight")
    ]
    macs, cycles = np.zeros((len(parts), len(columns))), np.zeros((len(parts), len(columns)))
    for i, label in enumerate(step.labels):
        part = part_of(label)
        y = parts.index(part if part in parts else part.split(".")[0])
        x = columns.index((kind_of(label), label.pass_name))
        macs[y, x] += step.macs[i]
        cycles[y, x] += step.costs.latency_cycles[i] * step.weight[i]
    with np.errstate(invalid="ignore", divide="ignore"):
        values = macs / (step.hardware.array.pes * cycles)
    used = np.asarray(np.isfinite(values).any(axis=0))
    names = {"convolution": "conv"}
    short = {"output": "Y", "grad_input": "dX", "grad_weight": "dW"}
    return (
        values[:, used],
        parts,
        [f"{names.get(k, k)} {short[p]}" for (k, p), u in zip(columns, used, strict=True) if u],
    )


def compare(step: StepCost, prepared: Prepared, baselines: dict[str, Hardware]) -> list[Comparison]:
    """The design over each baseline. Area efficiency is work a second and mm2."""
    area = area_of(step.hardware).total_mm2
    found = []
    for name, hardware in baselines.items():
        other = simulate_prepared(prepared, hardware)
        speed = other.latency_cycles / hardware.array.clock_mhz / (step.latency_cycles / step.hardware.array.clock_mhz)
        energy = ratio_interval(other.energy_parts_pj, step.energy_parts_pj)
        areas = area_of(hardware).total_mm2 / area
        areas = np.array([areas.min(), areas[1], areas.max()])
        on_chip = [np.delete(s.energy_parts_pj, PARTS.index("dram"), axis=0) for s in (other, step)]
        found.append(Comparison(name, speed, energy, ratio_interval(*on_chip), speed * areas))
    return found
