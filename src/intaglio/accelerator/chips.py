"""Published chips, and our figures on the same terms: peak beside peak, step beside step, at 28 nm, without DRAM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from intaglio.accelerator.area import area_of
from intaglio.accelerator.constants import Interval, area_scale, energy_scale, table
from intaglio.accelerator.energy import PARTS, prices_of
from intaglio.accelerator.hardware import Hardware
from intaglio.accelerator.simulate import StepCost

NODE_NM, SUPPLY_V = 28, 0.9


@dataclass(frozen=True)
class Chip:
    """A row of `constants/published_chips.csv`, scaled to 28 nm at nominal supply; None where nothing is published.

    basis: `peak` of the array, or `step`: what a whole network reached.
    """

    design: str
    year: str
    node_nm: float
    precision: str
    kind: str
    dense: bool
    basis: str
    tops_per_w: float | None
    gops_per_mm2: float | None
    source: str


@dataclass(frozen=True)
class Efficiency:
    """[low, typical, high] at 28 nm."""

    gops_per_mm2: Interval
    tops_per_w: Interval


def published_chips() -> list[Chip]:
    """Those with a node and a figure of efficiency."""
    found = []
    for row in table("published_chips"):
        node = float(row["node_nm"])
        if not node or not (row["tops_per_w"] or row["gops_per_mm2"]):
            continue
        energy = energy_scale(node, SUPPLY_V) / energy_scale(NODE_NM, SUPPLY_V)
        area = area_scale(node) / area_scale(NODE_NM)
        found.append(
            Chip(
                *(row["design"], row["year"], node, row["precision"], row["kind"], row["dense"] == "yes", row["basis"]),
                float(row["tops_per_w"]) * energy if row["tops_per_w"] else None,
                float(row["gops_per_mm2"]) * area if row["gops_per_mm2"] else None,
                row["source"],
            )
        )
    return found


def step_efficiency(step: StepCost) -> Efficiency:
    """Of the step's useful work in its whole time."""
    operations = 2 * step.prepared.workload.macs
    energy_pj = np.delete(step.energy_parts_pj, PARTS.index("dram"), axis=0).sum(axis=0)
    gops = operations / (step.latency_ms / 1e3) / 1e9 / _area_at_28(step.hardware)[::-1]
    return Efficiency(gops, operations / (energy_pj * _energy_to_28(step.hardware))[::-1])


def peak_efficiency(hardware: Hardware) -> Efficiency:
    """Of an array that multiplies in every PE in every cycle, in its thriftier dataflow, and leaks.

    Weight-stationary reads one operand a row, and reads, adds and writes a sum a column; output-stationary reads an
    operand a row and a column.
    """
    array, prices = hardware.array, prices_of(hardware)
    read, write = prices.sram_read_pj_per_byte, prices.sram_write_pj_per_byte
    rows = array.rows * array.operand_bits / 8 * read[0]
    sums = array.cols * (array.accumulator_bits / 8 * (read[2] + write[2]) + prices.accumulate_pj)
    moved = {
        "weight_stationary": rows + sums,
        "output_stationary": rows + array.cols * array.operand_bits / 8 * read[1],
    }
    a_cycle = array.pes * (prices.mac_pj + prices.register_pj) + min(
        (moved[m] for m in array.modes), key=lambda v: v[1]
    )
    a_cycle = (a_cycle + prices.leakage_pj_per_cycle) * _energy_to_28(hardware)
    gops = hardware.peak_tops * 1e3 / _area_at_28(hardware)[::-1]
    return Efficiency(gops, 2 * array.pes / a_cycle[::-1])


def efficiency_beside(chip: Chip, step: StepCost) -> Efficiency:
    """Ours on the chip's terms."""
    return peak_efficiency(step.hardware) if chip.basis == "peak" else step_efficiency(step)


def chip_rows(step: StepCost) -> list[dict[str, object]]:
    """Our efficiency over each published chip's."""
    rows = []
    for chip in published_chips():
        ours = efficiency_beside(chip, step)
        row: dict[str, object] = {
            "design": chip.design,
            "year": chip.year,
            "precision": chip.precision,
            "kind": chip.kind,
            "dense": "yes" if chip.dense else "no",
            "compared": chip.basis,
        }
        for unit, theirs, values in (
            ("TOPS/W", chip.tops_per_w, ours.tops_per_w),
            ("GOPS/mm2", chip.gops_per_mm2, ours.gops_per_mm2),
        ):
            row[f"{unit} at 28 nm"] = f"{theirs:.3g}" if theirs else ""
            row[f"ours, {unit}"] = f"{values[1]:.3g} ({values[0]:.3g} .. {values[2]:.3g})"
            row[f"ours over it, {unit}"] = f"{values[1] / theirs:.2f}" if theirs else ""
        rows.append(row | {"source": chip.source})
    return rows


def chip_verdicts(step: StepCost, targets: dict[str, float]) -> list[str]:
    """Over which dense chips the paper's two figures over prior work are reached, each on the chip's own terms."""
    lines = []
    for target, field in (
        ("energy efficiency over prior work", "tops_per_w"),
        ("area efficiency over prior work", "gops_per_mm2"),
    ):
        reached, missed = [], []
        for chip in published_chips():
            theirs = getattr(chip, field)
            if theirs and chip.dense:
                ratio = float(getattr(efficiency_beside(chip, step), field)[1]) / theirs
                text = f"{chip.design} ({chip.precision}, {chip.basis}: {ratio:.2f}x)"
                (reached if ratio >= targets[target] else missed).append(text)
        lines.append(
            f"{targets[target]:.2f}x {target} (dense chips at 28 nm, peak beside peak; which the paper means is not "
            f"public): reached over {_listed(reached)}; not over {_listed(missed)}"
        )
    return lines


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _area_at_28(hardware: Hardware) -> Interval:
    return area_of(hardware).total_mm2 * area_scale(NODE_NM) / area_scale(hardware.technology.node_nm)


def _energy_to_28(hardware: Hardware) -> float:
    technology = hardware.technology
    return energy_scale(NODE_NM, SUPPLY_V) / energy_scale(technology.node_nm, technology.supply_v)
