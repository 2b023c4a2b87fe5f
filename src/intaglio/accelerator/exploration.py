"""Design-space exploration: a grid of designs over one step, in parallel, resumable, with its Pareto front."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from intaglio.accelerator.area import area_of
from intaglio.accelerator.axes import TILING_AXES, Axes, design_at
from intaglio.accelerator.hardware import Hardware, load_hardware
from intaglio.accelerator.schedule import Prepared, prepare
from intaglio.accelerator.simulate import simulate_prepared
from intaglio.accelerator.workload import Workload
from intaglio.config import StrictModel
from intaglio.errors import UserError

__all__ = ["Axes", "Space", "cost_design", "design_at", "explore", "pareto_front", "read_designs"]


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
    record = {
        "space": space.model_dump(mode="json"),
        "base": load_hardware(space.base).model_dump(mode="json"),
        "step": digest_of_step(workload),
        "model": digest_of_model(),
    }
    text = json.dumps(record, indent=2) + "\n"
    path = folder / "space.json"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise UserError(
            f"{folder} holds results of another space, base, step or cost model (see {path}); expected the same. "
            "Choose another --out, or delete that folder"
        )
    path.write_text(text, encoding="utf-8")


def digest_of_step(workload: Workload) -> str:
    """Of everything in a step that a cost depends on."""
    p = workload.products
    arrays = [getattr(p, field.name) for field in fields(p)]
    labels = repr((workload.labels, workload.vector_labels))
    content = (np.column_stack(arrays).tobytes(), workload.vector_elements.tobytes(), labels.encode())
    return hashlib.sha256(b"|".join(content)).hexdigest()[:16]


def digest_of_model() -> str:
    """Of the code and the constants that make a cost."""
    folder = Path(str(resources.files("intaglio.accelerator")))
    files = sorted([*folder.glob("*.py"), *folder.glob("constants/*.csv")])
    return hashlib.sha256(b"|".join(file.read_bytes() for file in files)).hexdigest()[:16]


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
