"""Design-space exploration: a grid of designs over one step, in parallel, resumable, with its Pareto front."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt

from intaglio.accelerator.area import area_of
from intaglio.accelerator.dataflow import Overlap
from intaglio.accelerator.hardware import Bits, Hardware, load_hardware
from intaglio.accelerator.schedule import Prepared, prepare
from intaglio.accelerator.simulate import simulate_prepared
from intaglio.accelerator.workload import Workload
from intaglio.config import StrictModel
from intaglio.errors import UserError

MODES = {
    "both": ("weight_stationary", "output_stationary"),
    "weight_stationary": ("weight_stationary",),
    "output_stationary": ("output_stationary",),
}


TILING_AXES = ("rows", "cols", "bits", "input_kib", "weight_kib", "output_kib")


class Axes(StrictModel):
    """Values to try; an axis that is left out keeps the base's value.

    port_width: elements a row (input) or column (weight, output) that a buffer passes each cycle.
    lanes_per_col: vector lanes a column. The order is that of the grid's index: what decides tilings comes first.
    """

    rows: tuple[PositiveInt, ...] = ()
    cols: tuple[PositiveInt, ...] = ()
    bits: tuple[Bits, ...] = ()
    input_kib: tuple[PositiveInt, ...] = ()
    weight_kib: tuple[PositiveInt, ...] = ()
    output_kib: tuple[PositiveInt, ...] = ()
    fused_attention: tuple[bool, ...] = ()
    packing: tuple[bool, ...] = ()
    modes: tuple[Literal["both", "weight_stationary", "output_stationary"], ...] = ()
    operand_swap: tuple[bool, ...] = ()
    partition: tuple[Literal["1x1", "2x2", "4x4"], ...] = ()
    overlap: tuple[Overlap, ...] = ()
    port_width: tuple[PositiveInt, ...] = ()
    lanes_per_col: tuple[PositiveFloat, ...] = ()
    clock_mhz: tuple[PositiveFloat, ...] = ()
    bandwidth_gbytes_per_s: tuple[PositiveFloat, ...] = ()


class Space(StrictModel):
    """What to explore: `designs` of the grid, drawn with `seed`, all of them when the grid is not larger."""

    base: str
    designs: PositiveInt = 10_000
    seed: int = 0
    axes: Axes = Field(default_factory=Axes)

    @property
    def used(self) -> dict[str, tuple[Any, ...]]:
        """The axes that vary, in the grid's order."""
        return {name: getattr(self.axes, name) for name in Axes.model_fields if getattr(self.axes, name)}

    @property
    def grid_size(self) -> int:
        return math.prod(len(values) for values in self.used.values())

    def indices(self) -> NDArray[np.int64]:
        """Which points of the grid to cost, ascending.

        Drawn in blocks of up to 16 that share array and buffers, whose tilings are then found once.
        """
        size = self.grid_size
        if size <= self.designs:
            return np.arange(size)
        inner = math.prod(len(v) for name, v in self.used.items() if name not in TILING_AXES)
        rng = np.random.default_rng(self.seed)
        chosen: dict[int, None] = {}
        while len(chosen) < self.designs:
            block = int(rng.integers(size // inner)) * inner
            drawn = rng.permutation(inner)[:16] if inner < 2**20 else rng.integers(inner, size=16)
            chosen |= dict.fromkeys(block + int(i) for i in drawn)
        return np.array(sorted(list(chosen)[: self.designs]))

    def point(self, index: int) -> dict[str, Any]:
        """The value of every used axis; the last axis turns fastest."""
        values = {}
        for name, options in reversed(self.used.items()):
            index, at = divmod(index, len(options))
            values[name] = options[at]
        return dict(reversed(values.items()))


def design_at(base: Hardware, point: dict[str, Any]) -> Hardware:
    """The base with a point's values. Ports follow the array: `port_width` elements a row and a column."""
    array, buffers = base.array, base.buffers
    rows, cols, bits = (
        point.get(n, v) for n, v in (("rows", array.rows), ("cols", array.cols), ("bits", array.operand_bits))
    )
    wide = point.get("port_width", buffers.input.bandwidth_bytes_per_cycle * 8 / (array.rows * array.operand_bits))
    lanes = point.get("lanes_per_col", base.vector.lanes / array.cols)
    changes: dict[str, Any] = {
        "array__rows": rows,
        "array__cols": cols,
        "array__operand_bits": bits,
        "buffers__input__bandwidth_bytes_per_cycle": rows * bits / 8 * wide,
        "buffers__weight__bandwidth_bytes_per_cycle": cols * bits / 8 * wide,
        "buffers__output__bandwidth_bytes_per_cycle": cols * 4 * wide,
        "vector__lanes": max(1, round(lanes * cols)),
    }
    paths = {
        "fused_attention": "schedule__fused_attention",
        "packing": "schedule__packing",
        "operand_swap": "schedule__operand_swap",
        "partition": "array__partition",
        "overlap": "array__overlap",
        "clock_mhz": "array__clock_mhz",
        "bandwidth_gbytes_per_s": "dram__bandwidth_gbytes_per_s",
    }
    changes |= {path: point[name] for name, path in paths.items() if name in point}
    changes |= {
        f"buffers__{name}__size_bytes": point[f"{name}_kib"] * 1024
        for name in ("input", "weight", "output")
        if f"{name}_kib" in point
    }
    if "modes" in point:
        changes["array__modes"] = MODES[point["modes"]]
    if "partition" in point:
        changes["schedule__split"] = point["partition"] != "1x1"
    return base.replaced(**changes)


def cost_design(prepared: dict[bool, Prepared], hardware: Hardware) -> dict[str, Any]:
    """Latency, energy and area of a design; empty figures and the reason where a product does not fit."""
    area = area_of(hardware).total_mm2
    figures: dict[str, Any] = {"area_mm2": round(float(area[1]), 5)}
    try:
        step = simulate_prepared(prepared[hardware.schedule.fused_attention], hardware)
    except UserError as error:
        return {
            "latency_ms": "",
            "energy_mj": "",
            **figures,
            "overall_utilization": "",
            "problem": str(error).split("\n")[0],
        }
    return {
        "latency_ms": round(step.latency_ms, 5),
        "energy_mj": round(float(step.energy_mj[1]), 5),
        **figures,
        "overall_utilization": round(step.overall_utilization, 5),
        "problem": "",
    }


@dataclass
class _Worker:
    """What a process keeps between chunks."""

    space: Space
    base: Hardware
    prepared: dict[bool, Prepared]


_worker: _Worker | None = None


def _start(space: Space, workload: Workload) -> None:
    global _worker
    _worker = _Worker(space, load_hardware(space.base), {f: prepare(workload, f) for f in (False, True)})


def _cost_chunk(indices: list[int]) -> list[dict[str, Any]]:
    assert _worker is not None
    rows = []
    for index in indices:
        point = _worker.space.point(index)
        try:
            figures = cost_design(_worker.prepared, design_at(_worker.base, point))
        except ValueError as error:  # pydantic: values that contradict each other
            reason = str(error).split("\n")[2].strip() if "\n" in str(error) else str(error)
            figures = {"latency_ms": "", "energy_mj": "", "area_mm2": "", "overall_utilization": "", "problem": reason}
        rows.append({"index": index, **point, **figures})
    return rows


def explore(space: Space, workload: Workload, folder: Path, jobs: int = 2) -> Iterator[int]:
    """Cost the designs that `folder/designs.csv` lacks, appending as they come; yields how many are done.

    Raises `UserError` when the folder holds another space's or another step's results.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, space, workload)
    path = folder / "designs.csv"
    done = {int(row["index"]) for row in read_designs(path)} if path.exists() else set()
    todo = [int(i) for i in space.indices() if int(i) not in done]
    count = len(done)
    yield count
    with path.open("a", newline="", encoding="utf-8") as file:
        names = ["index", *space.used, "latency_ms", "energy_mj", "area_mm2", "overall_utilization", "problem"]
        writer = csv.DictWriter(file, names, lineterminator="\n")
        if not done:
            writer.writeheader()
        for rows in _run(space, workload, [todo[i : i + 64] for i in range(0, len(todo), 64)], jobs):
            writer.writerows(rows)
            file.flush()
            count += len(rows)
            yield count


def _run(space: Space, workload: Workload, chunks: Iterable[list[int]], jobs: int) -> Iterator[list[dict[str, Any]]]:
    if jobs == 1:
        _start(space, workload)
        yield from map(_cost_chunk, chunks)
        return
    with ProcessPoolExecutor(jobs, initializer=_start, initargs=(space, workload)) as pool:
        yield from pool.map(_cost_chunk, chunks)


def _claim(folder: Path, space: Space, workload: Workload) -> None:
    """Write what is explored beside the results, or check that it is the same."""
    p = workload.products
    step = hashlib.sha256(np.column_stack([p.M, p.N, p.K, p.batch, p.count]).tobytes()).hexdigest()[:16]
    record = {
        "space": space.model_dump(mode="json"),
        "base": load_hardware(space.base).model_dump(mode="json"),
        "step": step,
    }
    text = json.dumps(record, indent=2) + "\n"
    path = folder / "space.json"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise UserError(
            f"{folder} holds results of another space, base or step (see {path}); expected the same to go on. "
            "Choose another --out, or delete that folder"
        )
    path.write_text(text, encoding="utf-8")


def read_designs(path: Path) -> list[dict[str, str]]:
    """Rows of designs.csv; a last line that a crash cut off is dropped."""
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        path.write_text(text, encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def pareto_front(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of the rows that no other row beats or equals in every column (lower is better), equal rows once."""
    order = np.lexsort(values.T[::-1])
    front: list[int] = []
    kept = np.empty((0, values.shape[1]))
    for index in order:
        if not (kept <= values[index]).all(axis=1).any():
            front.append(int(index))
            kept = np.vstack([kept, values[index]])
    return np.array(front, dtype=np.int64)
