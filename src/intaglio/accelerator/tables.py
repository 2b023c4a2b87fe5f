"""The tables that `simulate` writes: per operation, per layer, per pass, and a summary."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from intaglio.accelerator.area import area_of
from intaglio.accelerator.dataflow import DATAFLOWS
from intaglio.accelerator.energy import PARTS
from intaglio.accelerator.simulate import StepCost
from intaglio.accelerator.tiling import BLOCKS, ORDERS, STREAMED

Row = dict[str, Any]


def operation_rows(step: StepCost) -> Iterator[Row]:
    """One row an operation, in the step's order: costs of one occurrence, with its whole batch; vector work at the end.

    A packed product's costs are divided by columns, so that they add up. `energy_pj` contains the leakage of the
    row's time.
    """
    costs, products, labels = step.costs, step.prepared.products, step.labels
    pes, clock = step.hardware.array.pes, step.hardware.array.clock_mhz
    leakage_pj = step.prices.leakage_mw * 1e3 / clock  # a cycle
    for i, label in enumerate(labels):
        share = float(step.share[i])
        latency, compute = float(costs.latency_cycles[i]) * share, float(costs.compute_cycles[i]) * share
        macs = products.macs_once[i]
        useful = 0.0 if label.again else macs
        energy = costs.energy_pj[i].sum(axis=0) * share + leakage_pj * latency
        mapped = float(costs.mapped_fraction[i])
        yield {
            "M": int(products.M[i]),
            "N": int(products.N[i]),
            "K": int(products.K[i]),
            "dataflow": DATAFLOWS[int(costs.dataflow[i])],
            "compute_cycles": _number(compute),
            "stall_cycles": _number(latency - compute),
            "latency_cycles": _number(latency),
            "overall_utilization": _ratio(useful, pes * latency),
            "energy_pj": round(float(energy[1]), 3),
            "energy_low_pj": round(float(energy[0]), 3),
            "energy_high_pj": round(float(energy[2]), 3),
            "layer": label.layer,
            "pass": label.pass_name,
            "operation": label.operation,
            "batch": int(products.batch[i]),
            "count": int(products.count[i]),
            "macs": _number(macs),
            "useful_macs": _number(useful),
            "spatial_utilization": round(mapped, 6),
            "temporal_utilization": _ratio(macs, pes * latency * mapped),
            "compute_utilization": _ratio(macs, pes * compute),
            "bound_by": bound_by(step, i),
            "operands": "right^T left^T" if costs.swapped[i] else "left right",
            "packed_products": int(step.packed[i]),
            "sub_arrays": int(costs.sub_arrays[i]),
            "shares": int(costs.shares[i]),
            "pieces": int(costs.pieces[i]),
            "tile_m": int(costs.tile_m[i]),
            "tile_n": int(costs.tile_n[i]),
            "tile_k": int(costs.tile_k[i]),
            "loop_order": loop_order(int(costs.order[i])),
            "folds": _number(float(costs.folds[i]) * share),
            "dram_bytes": _number(float(costs.dram_bytes[i]) * share),
            "transposed_bytes": _number(float(costs.transposed_bytes[i]) * share),
            "sram_bytes": _number(float(costs.sram_bytes[i]) * share),
        }
    yield from _vector_rows(step, leakage_pj)


def _vector_rows(step: StepCost, leakage_pj: Any) -> Iterator[Row]:
    vector = step.vector
    for i, label in enumerate(vector.labels):
        latency, cycles = float(vector.latency_cycles[i]), float(vector.vector_cycles[i])
        energy = vector.energy_pj[i].sum(axis=0) + leakage_pj * latency
        yield {
            "M": "",
            "N": "",
            "K": "",
            "dataflow": "",
            "compute_cycles": _number(cycles),
            "stall_cycles": _number(max(0.0, latency - cycles)),
            "latency_cycles": _number(latency),
            "overall_utilization": "",
            "energy_pj": round(float(energy[1]), 3),
            "energy_low_pj": round(float(energy[0]), 3),
            "energy_high_pj": round(float(energy[2]), 3),
            "layer": label.layer,
            "pass": label.pass_name,
            "operation": label.kind,
            "batch": 1,
            "count": 1,
            "macs": 0,
            "useful_macs": 0,
            "bound_by": "beside the array" if vector.fused[i] and not latency else "vector unit",
            "dram_bytes": _number(float(vector.dram_bytes[i])),
        }


def bound_by(step: StepCost, row: int) -> str:
    """What a product waits for."""
    costs = step.costs
    times = {
        "array": costs.compute_cycles[row],
        "dram": costs.dram_cycles[row],
        "buffer": costs.buffer_cycles[row],
        "lanes": costs.vector_cycles[row],
    }
    return max(times, key=lambda name: float(times[name]))


def loop_order(index: int) -> str:
    return {STREAMED: "streamed", BLOCKS: "blocks"}.get(index) or "".join(ORDERS[index])


def grouped_rows(rows: list[Row], key: str, pes: int) -> list[Row]:
    """Sums of the operation rows by a column."""
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    names = (
        "macs",
        "useful_macs",
        "compute_cycles",
        "stall_cycles",
        "latency_cycles",
        "energy_low_pj",
        "energy_pj",
        "energy_high_pj",
        "dram_bytes",
    )
    for row in rows:
        group = sums[row[key]]
        beside = row.get("bound_by") == "beside the array"
        for name in names:
            if not (beside and name in ("compute_cycles", "stall_cycles")):
                group[name] += float(row[name]) * row["count"]
        group["operations"] += row["count"]
    return [
        {
            key: name,
            "operations": int(group["operations"]),
            **{n: _number(group[n]) for n in names},
            "overall_utilization": _ratio(group["useful_macs"], pes * group["latency_cycles"]),
        }
        for name, group in sums.items()
    ]


def summary_of(step: StepCost) -> Row:
    """Figures of the whole step; energies and areas as [low, typical, high]."""
    area = area_of(step.hardware)
    seconds = step.latency_ms / 1e3
    effective_tops = 2 * step.prepared.workload.macs / seconds / 1e12
    return {
        "hardware": step.hardware.name,
        "workload": step.prepared.workload.name,
        "method": step.prepared.workload.method,
        "macs": step.prepared.workload.macs,
        "compute_cycles": _number(step.compute_cycles),
        "latency_cycles": _number(step.latency_cycles),
        "latency_ms": round(step.latency_ms, 6),
        "vector_latency_cycles": _number(float(step.vector.latency_cycles.sum())),
        "overall_utilization": round(step.overall_utilization, 6),
        "effective_tops": round(effective_tops, 6),
        "peak_tops": round(step.hardware.peak_tops, 6),
        "dram_bytes": _number(step.dram_bytes),
        "energy_mj": [round(float(v), 6) for v in step.energy_mj],
        "energy_parts_mj": {
            n: [round(float(v) / 1e9, 6) for v in step.energy_parts_pj[i]] for i, n in enumerate(PARTS)
        },
        "power_w": [round(float(v) / step.latency_ms, 6) for v in step.energy_mj],
        "tops_per_w": [round(float(v), 6) for v in step.tops_per_w],
        "area_mm2": [round(float(v), 6) for v in area.total_mm2],
        "gops_per_mm2": [round(effective_tops * 1e3 / float(v), 6) for v in area.total_mm2[::-1]],
    }


def write_tables(step: StepCost, folder: Path) -> list[Row]:
    """Write operations.csv, layers.csv, passes.csv, summary.json; returns the operation rows."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(operation_rows(step))
    write_csv(folder / "operations.csv", rows)
    pes = step.hardware.array.pes
    write_csv(folder / "layers.csv", grouped_rows(rows, "layer", pes))
    write_csv(folder / "passes.csv", grouped_rows(rows, "pass", pes))
    (folder / "summary.json").write_text(json.dumps(summary_of(step), indent=2) + "\n", encoding="utf-8")
    return rows


def write_csv(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _number(value: float) -> int | float:
    """Whole numbers without a point."""
    return int(value) if float(value).is_integer() else round(value, 3)


def _ratio(part: float, whole: float) -> float:
    return round(part / whole, 6) if whole else 0.0
