"""`intaglio bench`: time and memory of one training step on this machine, peers and ours alternating."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import click

from intaglio.cli import SETTINGS
from intaglio.cli.contestants import (
    CONTESTANTS,
    DEFAULT,
    DENOISING_STEPS,
    MODELS,
    TASKS,
    Contestant,
    import_everything,
)
from intaglio.errors import UnknownChoice, UserError
from intaglio.runtime.memory import HUGE_PAGES

MIB = 2**20


def command_line() -> list[str]:
    return [sys.executable, "-m", "intaglio.cli", "bench"]


@click.command(name="bench", context_settings={**SETTINGS, "show_default": True})
@click.option("--model", type=click.Choice(list(MODELS)), default="sd15", help="Shape of the U-Net; random weights.")
@click.option("--methods", default=",".join(DEFAULT), help=f"Of {', '.join(CONTESTANTS)}.")
@click.option("--resolution", type=click.IntRange(64), default=256, help="Side of the images in pixels.")
@click.option("--train_batch_size", type=click.IntRange(1), default=1, help="Images a step.")
@click.option("--steps", type=click.IntRange(1), default=5, help="Measured steps of each, after one that is not.")
@click.option("--threads", type=click.IntRange(1), default=os.cpu_count() or 1, help="Of torch and of the kernels.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the table here too, as Markdown.")
@click.option("--task", type=click.Choice(list(TASKS)), default="train", help="A training step, or drawing an image.")
@click.option("--worker", hidden=True, help="Internal: be one contestant, stepping at each line of input.")
def command(
    model: str,
    methods: str,
    resolution: int,
    train_batch_size: int,
    steps: int,
    threads: int,
    out: Path | None,
    task: str,
    worker: str | None,
) -> None:
    """Measure a training step, or an image, by several methods on this machine, on a U-Net with random weights.

    One process a method, alive together, so leave memory for all of them; the steps alternate. Ratios within a run
    are what counts, on a machine that does nothing else.
    """
    if worker is not None:
        _work(CONTESTANTS[worker], Work(model, resolution, train_batch_size, threads, task))
        return
    names = [name.strip() for name in methods.split(",") if name.strip()]
    for name in names:
        if name not in CONTESTANTS:
            raise UnknownChoice("method", name, CONTESTANTS)
    work = Work(model, resolution, train_batch_size, threads, task)
    rows, notes = measure(names, work, steps)
    text = "\n\n".join([table(rows, f"{work.title()}; median of {steps} steps"), *notes]) + "\n"
    click.echo(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(f"# One training step\n\n{text}", encoding="utf-8")


@dataclass(frozen=True)
class Work:
    """What a step consists of."""

    model: str = "sd15"
    resolution: int = 256
    batch: int = 1
    threads: int = os.cpu_count() or 1
    task: str = "train"

    def arguments(self) -> list[str]:
        given = {"model": self.model, "resolution": self.resolution, "train_batch_size": self.batch}
        return [
            part
            for k, v in (given | {"threads": self.threads, "task": self.task}).items()
            for part in (f"--{k}", str(v))
        ]

    def title(self) -> str:
        place = f"U-Net {self.model}, {self.resolution} px, batch {self.batch}"
        if self.task == "generate":
            return (
                f"{place}, {DENOISING_STEPS} denoising steps with guidance, the denoiser alone, {self.threads} threads"
            )
        return f"{place}, LoRA rank 16, AdamW, {self.threads} threads"


def measure(names: Sequence[str], work: Work, steps: int) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for each contestant: `name`, `seconds` (median), `spread` (fastest, slowest), `peak_bytes`, `kernels`; and
    a line for each that needs a package which is not there.
    """
    workers: dict[str, subprocess.Popen[str]] = {}
    notes = []
    try:
        for name in names:
            package = CONTESTANTS[name].missing_package()
            if package is not None:
                notes.append(f"{CONTESTANTS[name].title}: left out, {package} is not installed.")
                click.echo(notes[-1], err=True)
                continue
            click.echo(f"preparing {CONTESTANTS[name].title}", err=True)
            workers[name] = subprocess.Popen(
                [*command_line(), *work.arguments(), "--worker", name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=_environment(CONTESTANTS[name], work),
            )
        for name, worker in workers.items():
            _line(worker.stdout, name)
        times: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
        for step in range(steps + 1):
            click.echo(f"step {step} of {steps}", err=True)
            for name, worker in workers.items():
                assert worker.stdin is not None
                worker.stdin.write("step\n")
                worker.stdin.flush()
                times[name].append(_line(worker.stdout, name))
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
    rows = []
    for name, all_steps in times.items():
        seconds = [s["seconds"] for s in all_steps[1:]]
        rows.append(
            {
                "name": name,
                "seconds": statistics.median(seconds),
                "spread": (min(seconds), max(seconds)),
                "peak_bytes": max(s["peak_bytes"] for s in all_steps),
                "kernels": all_steps[0]["kernels"],
            }
        )
    return rows, notes


def table(rows: list[dict[str, Any]], caption: str) -> str:
    """Markdown, with the machine, the versions and the ratios to the first row."""
    if not rows:
        raise UserError("nothing left to measure: install what the notes above name, or choose other --methods")
    kernels = ", ".join(sorted({r["kernels"] for r in rows} - {None})) or "none"
    packages = ["diffusers", "peft", *(p for r in rows if (p := CONTESTANTS[r["name"]].package))]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", *packages))
    lines = [
        f"{caption}. {processor()}, our kernels: {kernels}, {versions}, Python {platform.python_version()}.",
        "Memory is the peak of the steps above what the imports take.",
        "",
        "| method | seconds | (fastest, slowest) | MiB | time | memory |",
        "|---|---|---|---|---|---|",
    ]
    first = rows[0]
    for r in rows:
        low, high = r["spread"]
        lines.append(
            f"| {CONTESTANTS[r['name']].title} | {r['seconds']:.2f} | {low:.2f}, {high:.2f} | "
            f"{r['peak_bytes'] / MIB:,.0f} | {r['seconds'] / first['seconds']:.2f} | "
            f"{r['peak_bytes'] / first['peak_bytes']:.2f} |"
        )
    return "\n".join(lines)


def _environment(contestant: Contestant, work: Work) -> dict[str, str]:
    """A peer has torch's default of memory, as its users do: not what importing intaglio asks for."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(work.threads)}
    return environment if contestant.ours else environment | {HUGE_PAGES: "0"}


def _line(stream: IO[str] | None, name: str) -> dict[str, Any]:
    """The next report of a worker; what libraries print in between is passed over."""
    assert stream is not None
    for line in stream:
        if line.startswith("{"):
            return json.loads(line)
    raise UserError(f"{name} stopped: see its messages above; often memory is short, then name fewer --methods")


def processor() -> str:
    """The name of this machine's processor."""
    info = Path("/proc/cpuinfo")
    names = [x for x in info.read_text().splitlines() if x.startswith("model name")] if info.exists() else []
    return names[0].partition(": ")[2] if names else platform.processor() or platform.machine()


def _work(contestant: Contestant, work: Work) -> None:
    """Prepare, say so, then make one step for each line of input."""
    import torch

    torch.set_num_threads(work.threads)
    import_everything(contestant)
    imports_bytes = _resident_bytes()
    step = TASKS[work.task](contestant, work.model, work.resolution, work.batch)
    _forget_peak()
    from intaglio.kernels.binding import path_in_use

    kernels = path_in_use() if contestant.ours else None
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        seconds = time.perf_counter() - start
        report = {"seconds": seconds, "peak_bytes": _peak_bytes() - imports_bytes, "kernels": kernels}
        print(json.dumps(report), flush=True)


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise UserError("intaglio bench reads memory from /proc, which only Linux has")


def _resident_bytes() -> int:
    return _status_bytes("VmRSS:")


def _peak_bytes() -> int:
    return _status_bytes("VmHWM:")


def _forget_peak() -> None:
    """Preparing may take more than the steps: begin the peak anew."""
    Path("/proc/self/clear_refs").write_text("5")
