"""A design over its baselines, for methods x ranks x models, and beside published chips; the paper's figures as
targets."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from intaglio.accelerator import page, plots
from intaglio.accelerator.area import area_of
from intaglio.accelerator.baselines import REASONS, baselines_of
from intaglio.accelerator.chips import chip_rows, chip_verdicts, peak_efficiency, published_chips
from intaglio.accelerator.hardware import Hardware
from intaglio.accelerator.model_steps import MODEL_STEPS, model_step
from intaglio.accelerator.schedule import prepare
from intaglio.accelerator.simulate import StepCost, simulate
from intaglio.accelerator.step_builder import Method
from intaglio.accelerator.tables import write_csv
from intaglio.accelerator.views import PAPER, Comparison, compare
from intaglio.accelerator.workload import workload_of_trace
from intaglio.errors import UnknownChoice

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One method on one model; rank 0 where the method has none."""

    model: str
    method: Method
    rank: int

    @property
    def name(self) -> str:
        return f"{self.model}, {self.method}" + (f" rank {self.rank}" if self.rank else "")


def cases_of(models: Sequence[str], methods: Sequence[str], ranks: Sequence[int]) -> list[Case]:
    """Every combination; ranks count for lora only."""
    found = []
    for model in models:
        if model not in MODEL_STEPS:
            raise UnknownChoice("model", model, MODEL_STEPS)
        for method in methods:
            if method not in get_args(Method):
                raise UnknownChoice("method", method, get_args(Method))
            found += [Case(model, method, rank) for rank in (ranks if method == "lora" else (0,))]  # type: ignore[arg-type]
    return found


def run_cases(hardware: Hardware, cases: Sequence[Case]) -> dict[Case, tuple[StepCost, list[Comparison]]]:
    """Simulate every case on the design and on its baselines."""
    baselines = baselines_of(hardware)
    found = {}
    for case in cases:
        workload = workload_of_trace(model_step(case.model, case.rank or 16, case.method))
        found[case] = (simulate(workload, hardware), compare_case(workload, hardware, baselines))
    return found


def compare_case(workload: Any, hardware: Hardware, baselines: dict[str, Hardware]) -> list[Comparison]:
    return compare(simulate(workload, hardware), prepare(workload), baselines)


def ratio_rows(found: dict[Case, tuple[StepCost, list[Comparison]]]) -> list[Row]:
    """One row a case and baseline."""
    rows = []
    for case, (step, comparisons) in found.items():
        for c in comparisons:
            low, typical, high = (round(float(v), 4) for v in c.energy_efficiency)
            area_low, area, area_high = (round(float(v), 4) for v in c.area_efficiency)
            rows.append(
                {
                    "model": case.model,
                    "method": case.method,
                    "rank": case.rank or "",
                    "baseline": c.baseline,
                    "speed_up": round(c.speed_up, 4),
                    "energy_efficiency": typical,
                    "energy_efficiency_low": low,
                    "energy_efficiency_high": high,
                    "on_chip_energy_efficiency": round(float(c.on_chip_energy_efficiency[1]), 4),
                    "on_chip_energy_efficiency_low": round(float(c.on_chip_energy_efficiency[0]), 4),
                    "on_chip_energy_efficiency_high": round(float(c.on_chip_energy_efficiency[2]), 4),
                    "area_efficiency": area,
                    "area_efficiency_low": area_low,
                    "area_efficiency_high": area_high,
                    "latency_ms": round(step.latency_ms, 3),
                    "energy_mj": round(float(step.energy_mj[1]), 3),
                    "overall_utilization": round(step.overall_utilization, 4),
                }
            )
    return rows


def verdicts(rows: list[Row], step: StepCost) -> list[str]:
    """Plain statements: under which baseline each of the paper's four figures is reached, exceeded or not."""
    lines = []
    columns = (
        ("speed-up", "speed_up", ""),
        ("energy efficiency", "energy_efficiency", ""),
        ("energy efficiency", "on_chip_energy_efficiency", " without DRAM"),
    )
    for target, column, which in columns:
        for baseline in dict.fromkeys(row["baseline"] for row in rows):
            of = [row for row in rows if row["baseline"] == baseline and row["method"] == "lora"] or rows
            values = [row[column] for row in of]
            best = max(of, key=lambda row: row[column])
            ends = "" if column == "speed_up" else f", sources allow up to {max(r[column + '_high'] for r in of):.2f}x"
            word = "reached in every case" if min(values) >= PAPER[target] else _partly(values, PAPER[target])
            where = f"{best['model']} rank {best['rank']}" if best["rank"] else best["model"]
            lines.append(
                f"{PAPER[target]:.2f}x {target}{which} over {baseline}: {word} "
                f"({min(values):.2f}x .. {max(values):.2f}x, most on {where}{ends})"
            )
    return lines + chip_verdicts(step, PAPER)


def _partly(values: list[float], target: float) -> str:
    count = sum(value >= target for value in values)
    return f"reached in {count} of {len(values)} cases" if count else "not reached"


def write_comparison(hardware: Hardware, cases: Sequence[Case], folder: Path, command: str) -> list[str]:
    """Write ratios.csv, chips.csv, comparison.json and comparison.html; returns the verdicts."""
    folder.mkdir(parents=True, exist_ok=True)
    found = run_cases(hardware, cases)
    rows = ratio_rows(found)
    first = next(iter(found.values()))[0]
    chips = chip_rows(first)
    lines = verdicts(rows, first)
    write_csv(folder / "ratios.csv", rows)
    write_csv(folder / "chips.csv", chips)
    record = {"hardware": hardware.model_dump(mode="json"), "paper": PAPER, "verdicts": lines, "ratios": rows}
    (folder / "comparison.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    html = _html(hardware, found, rows, chips, lines, command)
    (folder / "comparison.html").write_text(html, encoding="utf-8")
    return lines


def _html(
    hardware: Hardware,
    found: dict[Case, tuple[StepCost, list[Comparison]]],
    rows: list[Row],
    chips: list[Row],
    lines: list[str],
    command: str,
) -> str:
    body = [
        page.section(
            "What is reached", "The paper's figures are its own, for its hardware and baseline; ours are a model's."
        ),
        "<ul>" + "".join(f"<li>{_coloured(line)}</li>" for line in lines) + "</ul>",
    ]
    for name in baselines_of(hardware):
        speed = {case.name: [c.speed_up] * 3 for case, (_, cs) in found.items() for c in cs if c.baseline == name}
        energy = {case.name: c.energy_efficiency for case, (_, cs) in found.items() for c in cs if c.baseline == name}
        body += [
            page.section(f"Over {name}", REASONS[name][0].upper() + REASONS[name][1:] + "."),
            '<div class="pair">'
            + page.figure(plots.svg(plots.ratio_bars(speed, PAPER["speed-up"], "speed-up"), f"Speed-up over {name}"))
            + page.figure(
                plots.svg(
                    plots.ratio_bars(energy, PAPER["energy efficiency"], "energy efficiency"), f"Energy over {name}"
                )
            )
            + "</div>",
        ]
    points = [c for c in published_chips() if c.gops_per_mm2 and c.tops_per_w and c.dense and c.basis == "peak"]
    ours = {hardware.name: peak_efficiency(hardware)}
    area = area_of(hardware).total_mm2
    body += [
        page.section(
            "Beside published chips",
            "Dense figures at 28 nm, without DRAM: peak beside peak, step beside step.",
        ),
        page.figure(
            plots.svg(plots.chips(points, ours), "Chips"), "Circles: silicon. Diamonds: synthesis or simulation."
        ),
        page.table(chips),
        page.section("All ratios"),
        page.table(rows),
        page.section("Exact inputs"),
        page.code(
            f"{command}\n# numpy {np.__version__}, python {platform.python_version()}, {area[1]:.2f} mm2 a design"
        ),
        page.details("Hardware", page.code(hardware.model_dump_json(indent=2))),
    ]
    lead = (
        "Speed, energy and area of a fine-tuning step over five readings of the paper's baseline, "
        "with the range of sources."
    )
    return page.page(f"{hardware.name} beside its baselines", "intaglio compare-hardware", lead, body)


def _coloured(line: str) -> str:
    import html

    text = html.escape(line)
    for phrase, kind in (("not reached", "bad"), ("reached in every case", "good")):
        if f": {phrase}" in text:
            return text.replace(phrase, f'<span class="{kind}">{phrase}</span>', 1)
    return text
