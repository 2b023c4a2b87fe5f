"""What `explore` leaves behind: the Pareto front, the designs that beat the base in all three, a page, and a
hardware file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from intaglio.accelerator import page, plots
from intaglio.accelerator.axes import design_at
from intaglio.accelerator.by_axis import fastest_by_axis
from intaglio.accelerator.exploration import Space, cost_design, pareto_front, read_designs
from intaglio.accelerator.hardware import Hardware, load_hardware
from intaglio.accelerator.schedule import prepare
from intaglio.accelerator.tables import write_csv
from intaglio.accelerator.workload import Workload
from intaglio.errors import UserError

FIGURES = ("latency_ms", "energy_mj", "area_mm2")


@dataclass(frozen=True)
class Findings:
    """The base's figures; the front; the design that is better in all three by the largest product of ratios, if
    any."""

    base: dict[str, float]
    designs: int
    infeasible: int
    front: int
    better: int
    best: dict[str, Any] | None
    by_axis: list[dict[str, Any]]


def write_findings(space: Space, workload: Workload, folder: Path, command: str) -> Findings:
    """Read designs.csv; write pareto.csv, by_axis.csv, explore.html, and better.toml when a design beats the base in
    all three figures."""
    rows = read_designs(folder / "designs.csv")
    valid = [row for row in rows if row["latency_ms"]]
    if not valid:
        raise UserError(
            f"{folder}/designs.csv: none of {len(rows)} designs can run this step; see its column 'problem'"
        )
    base = load_hardware(space.base)
    prepared = {fused: prepare(workload, fused) for fused in (False, True)}
    reference = {name: float(value) for name, value in cost_design(prepared, base).items() if name in FIGURES}
    values = np.array([[float(row[name]) for name in FIGURES] for row in valid])
    front = pareto_front(values)
    write_csv(folder / "pareto.csv", [valid[i] for i in front])
    ratios = np.array([reference[name] for name in FIGURES]) / values
    in_all = np.flatnonzero((ratios > 1).all(axis=1))
    best = int(in_all[np.argmax(ratios[in_all].prod(axis=1))]) if len(in_all) else None
    if best is not None:
        point = space.point(int(valid[best]["index"]))
        design = design_at(base, point).replaced(
            name="better", description=f"better than {base.name} in latency, energy, area"
        )
        design = design.replaced(assumed=base.assumed)
        (folder / "better.toml").write_text(to_toml(design), encoding="utf-8")
    by_axis = fastest_by_axis(space, base, prepared, valid, values)
    if by_axis:
        write_csv(folder / "by_axis.csv", by_axis)
    chosen = valid[best] if best is not None else None
    found = Findings(reference, len(rows), len(rows) - len(valid), len(front), len(in_all), chosen, by_axis)
    html = _html(space, base, workload, found, valid, values, front, best, command)
    (folder / "explore.html").write_text(html, encoding="utf-8")
    return found


def to_toml(hardware: Hardware) -> str:
    """A hardware file that `load_hardware` reads back as the same design."""
    values = hardware.model_dump(mode="json")
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for table, entries in values.items():
        if isinstance(entries, dict):
            lines += ["", f"[{table}]"]
            lines += [f"{_key(key)} = {_toml(value)}" for key, value in entries.items() if value != {}]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    return repr(value)


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() else f'"{name}"'


def _html(
    space: Space,
    base: Hardware,
    workload: Workload,
    found: Findings,
    valid: list[dict[str, str]],
    values: np.ndarray,
    front: np.ndarray,
    best: int | None,
    command: str,
) -> str:
    columns: dict[str, np.ndarray] = dict(zip(FIGURES, values.T, strict=True))
    drawn = plots.pareto(columns, front, {**found.base, "name": base.name}, best)
    body = [page.cards(_cards(found)), page.figure(plots.svg(drawn, "Latency, energy and area of every design"))]
    if found.best is not None:
        body += [
            page.section(
                f"Better than {base.name} in all three",
                f"{found.better:,} designs are; this one by the largest product of the three ratios. It is in "
                f"better.toml.",
            ),
            page.table([_beside(name, found.base, found.best) for name in FIGURES]),
            page.table([{name: found.best[name] for name in space.used}]),
        ]
    body += [
        page.section(
            "What each choice can reach",
            f"The fastest design with each value of an axis, within the area of {base.name}; ratios over it.",
        ),
        page.table(found.by_axis),
    ]
    order = front[np.argsort(values[front, 0])]
    body += [
        page.section(
            "Pareto front",
            f"{len(front):,} designs that no other beats in latency, energy and area; all in pareto.csv.",
        ),
        page.table([_numbers(valid[i], space) for i in order[:: max(1, len(order) // 40)]]),
        page.section("Exact inputs"),
        page.code(command),
        page.details("Space", page.code(space.model_dump_json(indent=2))),
        page.details("Base", page.code(to_toml(base))),
    ]
    lead = f"{found.designs:,} of {space.grid_size:,} designs around {base.name}, on one step of {workload.name}."
    return page.page(f"Designs around {base.name}", "intaglio explore", lead, body)


def _cards(found: Findings) -> list[tuple[str, str, str]]:
    cards = [
        ("designs", f"{found.designs:,}", f"{found.infeasible:,} cannot run the step"),
        ("Pareto front", f"{found.front:,}", "latency, energy, area"),
        ("better in all three", f"{found.better:,}", "than the base"),
    ]
    if found.best is not None:
        units = {"latency_ms": "ms", "energy_mj": "mJ", "area_mm2": "mm2"}
        for name, unit in units.items():
            ratio = found.base[name] / float(found.best[name])
            cards.append(
                (
                    name.split("_")[0],
                    f"{ratio:.2f}x",
                    f"{float(found.best[name]):.4g} for {found.base[name]:.4g} {unit}",
                )
            )
    return cards


def _beside(name: str, base: dict[str, float], best: dict[str, Any]) -> dict[str, Any]:
    now = float(best[name])
    return {
        "figure": name,
        "base": round(base[name], 3),
        "this design": round(now, 3),
        "ratio": f"{base[name] / now:.2f}x",
    }


def _numbers(row: dict[str, str], space: Space) -> dict[str, Any]:
    return {n: row[n] for n in space.used} | {n: float(row[n]) for n in (*FIGURES, "overall_utilization")}
