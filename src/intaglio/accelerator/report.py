"""The report of `intaglio simulate`: one HTML file with the pictures, the tables and the exact inputs."""

from __future__ import annotations

import platform
from collections import defaultdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from intaglio.accelerator import page, plots
from intaglio.accelerator.area import area_of
from intaglio.accelerator.attribution import Attribution, attribute
from intaglio.accelerator.baselines import REASONS, baselines_of
from intaglio.accelerator.chips import chip_rows, peak_efficiency, published_chips
from intaglio.accelerator.constants import table
from intaglio.accelerator.energy import PARTS
from intaglio.accelerator.hardware import Hardware
from intaglio.accelerator.schedule import prepare
from intaglio.accelerator.simulate import StepCost
from intaglio.accelerator.tables import Row, grouped_rows, summary_of
from intaglio.accelerator.views import (
    PAPER,
    compare,
    roofline_points,
    time_parts,
    utilization_map,
)


def write_report(step: StepCost, rows: list[Row], path: Path, command: str) -> None:
    """Write the page. `rows` are `tables.operation_rows`; `command` is what the user typed."""
    hardware, workload = step.hardware, step.prepared.workload
    body = [
        _cards(step),
        *_time(step),
        *_roofline(step),
        *_utilization(step),
        *_energy(step),
        *_gain(step),
        *_comparison(step),
        *_chips(step),
        *_tables(step, rows),
        *_inputs(hardware, command, workload.facts),
    ]
    method = f"{workload.method} step of {workload.name}" if workload.method else f"workload {workload.name}"
    lead = (
        f"{len(step.labels):,} products and {len(step.vector.labels):,} pieces of vector work, "
        f"{workload.macs / 1e9:,.1f} GMAC, on {hardware.name}: {hardware.description}. A model, not a measurement."
    )
    path.write_text(
        page.page(f"{method} on {hardware.name}", "intaglio accelerator report", lead, body), encoding="utf-8"
    )


def interval_text(values: Any, digits: int = 3) -> str:
    return f"{float(values[0]):.{digits}g} .. {float(values[2]):.{digits}g}"


def _cards(step: StepCost) -> str:
    s, area = summary_of(step), area_of(step.hardware).total_mm2
    return page.cards(
        [
            (
                "time of a step",
                f"{step.latency_ms:,.4g} ms",
                f"{step.latency_cycles / 1e6:,.1f} M cycles at {step.hardware.array.clock_mhz:g} MHz",
            ),
            ("energy of a step", f"{step.energy_mj[1]:,.4g} mJ", f"{interval_text(step.energy_mj, 4)} by source"),
            (
                "overall utilization",
                f"{step.overall_utilization:.1%}",
                f"{s['effective_tops']:.3g} of {s['peak_tops']:.3g} TOPS",
            ),
            (
                "DRAM traffic",
                f"{step.dram_bytes / 1e9:,.3g} GB",
                f"{step.dram_bytes / 1e6 / step.latency_ms:.3g} GB/s of {step.hardware.dram.bandwidth_gbytes_per_s:g}",
            ),
            ("efficiency", f"{step.tops_per_w[1]:.3g} TOPS/W", f"{interval_text(step.tops_per_w)}, DRAM included"),
            ("area", f"{area[1]:.3g} mm2", f"{interval_text(area)} at {step.hardware.technology.node_nm:g} nm"),
        ]
    )


def _time(step: StepCost) -> list[str]:
    return [
        page.section(
            "Where the time goes",
            "Multiplying is what all PEs together would need without any loss; the rest of a bar is loss, by cause.",
        ),
        page.figure(plots.svg(plots.time_bars(time_parts(step)), "Time by kind of product and pass")),
    ]


def _roofline(step: StepCost) -> list[str]:
    return [
        page.section(
            "Roofline", "Every product of the step; equal ones are one point, as large as their share of the time."
        ),
        page.figure(
            plots.svg(plots.roofline(roofline_points(step), step.hardware), "Roofline of every product"),
            "Left of the ridge DRAM limits, right of it the array. Points below the roof pay for padding, "
            "loading and skew.",
        ),
    ]


def _utilization(step: StepCost) -> list[str]:
    values, parts, columns = utilization_map(step)
    return [
        page.section(
            "Utilization by layer and pass",
            "Useful MACs over what the PEs could do in that time; Y forward, dX gradient of the input, dW of "
            "what is trained.",
        ),
        page.figure(plots.svg(plots.heat_map(values, parts, columns), "Utilization by part of the network and pass")),
    ]


def _energy(step: StepCost) -> list[str]:
    parts = {name: step.energy_parts_pj[i] / 1e9 for i, name in enumerate(PARTS)}
    return [
        page.section(
            "Energy", "Bars are typical values; whiskers span what the sources say, from the lowest to the highest."
        ),
        page.figure(
            plots.svg(plots.energy_waterfall(parts), "Energy by part"),
            "mac: multiplier and adder. register: operands and sums in the PEs, padded PEs included. sram: "
            "buffers. static: leakage over the step.",
        ),
    ]


def _gain(step: StepCost) -> list[str]:
    found: Attribution = attribute(step.prepared.workload, step.hardware)
    if not found.speed_up:
        return []
    whole = found.baseline_ms / found.design_ms
    return [
        page.section(
            "What the gain is made of",
            f"Over a plain weight-stationary array (FP16 if this design is narrower) a step is {whole:.2f}x as "
            f"fast. Every subset of the "
            "features was simulated; a factor is the mean over all orders of switching them on, and the factors "
            "multiply to the whole.",
        ),
        page.figure(plots.svg(plots.factors(found.speed_up, found.energy), "Factors of the gain")),
    ]


def _comparison(step: StepCost) -> list[str]:
    baselines = baselines_of(step.hardware)
    found = compare(step, prepare(step.prepared.workload), baselines)
    speed = {c.baseline: [c.speed_up] * 3 for c in found}
    energy = {c.baseline: list(c.energy_efficiency) for c in found}
    rows = [
        {
            "baseline": c.baseline,
            "speed-up": round(c.speed_up, 3),
            "energy efficiency": f"{c.energy_efficiency[1]:.2f}x ({interval_text(c.energy_efficiency)})",
            "area efficiency": f"{c.area_efficiency[1]:.2f}x ({interval_text(c.area_efficiency)})",
            "what it is": REASONS[c.baseline],
        }
        for c in found
    ]
    return [
        page.section(
            "Beside baselines",
            "Dashed: the figures that CDM-QTA (ISCAS 2025) states over a baseline which no public text defines. "
            "They are its figures for its "
            "hardware; the bars are this model's, one for each reading of that baseline.",
        ),
        '<div class="pair">'
        + page.figure(plots.svg(plots.ratio_bars(speed, PAPER["speed-up"], "speed-up"), "Speed-up over baselines"))
        + page.figure(
            plots.svg(
                plots.ratio_bars(energy, PAPER["energy efficiency"], "energy efficiency"),
                "Energy efficiency over baselines",
            )
        )
        + "</div>",
        page.table(rows),
    ]


def _chips(step: StepCost) -> list[str]:
    points = [c for c in published_chips() if c.gops_per_mm2 and c.tops_per_w and c.dense and c.basis == "peak"]
    ours = {step.hardware.name: peak_efficiency(step.hardware)}
    return [
        page.section(
            "Beside published chips",
            "Dense figures at peak and 28 nm, without DRAM, peak beside peak. The table has all, each on its terms.",
        ),
        page.figure(
            plots.svg(plots.chips(points, ours), "Energy efficiency over area efficiency of training chips"),
            "Circles: silicon. Diamonds: synthesis or simulation.",
        ),
        page.details(
            "All chips, and their sources",
            page.table(chip_rows(step)),
        ),
    ]


def _tables(step: StepCost, rows: list[Row]) -> list[str]:
    groups = grouped_rows(rows, "pass", step.hardware.array.pes)
    to_ms = 1 / (step.hardware.array.clock_mhz * 1e3)
    passes = [
        {
            "pass": g["pass"],
            "operations": g["operations"],
            "GMAC": round(g["macs"] / 1e9, 2),
            "ms": round(g["latency_cycles"] * to_ms, 2),
            "share of time": f"{g['latency_cycles'] / step.latency_cycles:.1%}",
            "mJ": round(g["energy_pj"] / 1e9, 1),
            "mJ, by source": f"{g['energy_low_pj'] / 1e9:,.4g} .. {g['energy_high_pj'] / 1e9:,.4g}",
            "DRAM MB": round(g["dram_bytes"] / 1e6, 1),
            "utilization": f"{g['overall_utilization']:.1%}",
        }
        for g in groups
    ]
    return [
        page.section("Passes"),
        page.table(passes),
        page.section("The twenty shapes that take longest", "Every single operation is in operations.csv."),
        page.table(_longest(step, rows)),
    ]


def _longest(step: StepCost, rows: list[Row]) -> list[Row]:
    """Products of one shape, pass and mapping together."""
    same: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row["macs"]:
            key = ("pass", "M", "N", "K", "batch", "dataflow", "bound_by", "packed_products", "sub_arrays")
            same[tuple(row[k] for k in key)].append(row)
    found = []
    for group in same.values():
        first, times = group[0], sum(row["count"] for row in group)
        cycles = sum(row["latency_cycles"] * row["count"] for row in group)
        found.append(
            {
                "first layer": first["layer"],
                "pass": first["pass"],
                "times": times,
                "M x N x K": f"{first['M']} x {first['N']} x {first['K']}"
                + f", {first['batch']} heads" * (first["batch"] > 1),
                "dataflow": first["dataflow"].replace("_stationary", ""),
                "sub-arrays": first["sub_arrays"],
                "packed": first["packed_products"],
                "ms": round(cycles / (step.hardware.array.clock_mhz * 1e3), 2),
                "share": f"{cycles / step.latency_cycles:.1%}",
                "utilization": f"{first['overall_utilization']:.1%}",
                "bound by": first["bound_by"],
            }
        )
    return sorted(found, key=lambda row: -row["ms"])[:20]


def _inputs(hardware: Hardware, command: str, facts: dict[str, object]) -> list[str]:
    assumed = [{"input": k, "why it is assumed": v} for k, v in hardware.assumed.items()]
    versions = f"intaglio {_version()}, numpy {np.__version__}, python {platform.python_version()}"
    body = [
        page.section("Exact inputs"),
        page.code(f"{command}\n# {versions}"),
        page.note("What no publication states is assumed, and listed here with its reason.") if assumed else "",
        page.table(assumed),
    ]
    body.append(page.details("Hardware", page.code(hardware.model_dump_json(indent=2, exclude={"assumed"}))))
    if facts:
        body.append(page.details("Step", page.table([{"fact": k, "value": str(v)} for k, v in facts.items()])))
    names = ("arithmetic", "area", "technology", "uncertainty", "vector")
    return body + [page.details(f"Constants: {n}", page.table([dict(r) for r in table(n)])) for n in names]


def _version() -> str:
    try:
        return metadata.version("intaglio")
    except metadata.PackageNotFoundError:
        return "from source"
