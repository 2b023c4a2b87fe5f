"""Steps of several variants beside each other: a process each, alive together, that take turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from intaglio.errors import UnknownChoice, UserError
from intaglio.runtime.memory import HUGE_PAGES
from intaglio.speed.harness import Results, describe
from intaglio.speed.models import shape_named
from intaglio.speed.variants import TRAIN, VARIANTS, Variant
from intaglio.speed.work import Work

Say = Callable[[str], None]
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "KINETO_LOG_LEVEL": "5",
}
"""What keeps the libraries' chatter out of the workers."""


def check(names: Sequence[str], work: Work) -> None:
    """Raises UnknownChoice, UserError: no such variant, or one that draws no images."""
    shape_named(work.model)
    for name in names:
        if name not in VARIANTS:
            raise UnknownChoice("variant", name, VARIANTS)
        if work.task == "generate" and VARIANTS[name].train_method is not None:
            raise UserError(f"{name} trains; for images name {name.removeprefix(TRAIN)}")


def measure(
    names: Sequence[str], work: Work, steps: int, *, say: Say, profile: bool = False, path: Path | None = None
) -> Results:
    """`steps` steps of each variant, after one that is not counted.

    A row holds `name`, `title`, `seconds` (of every counted step), `peak_bytes` above the imports, `kernels`; with
    `profile`, also `profile`, of one more step. A baseline whose package is missing is left out, and `say` is told.

    Raises:
        UnknownChoice: no such variant.
        UserError: a process stopped, or nothing is left to measure.
    """
    check(names, work)
    chosen = {name: VARIANTS[name] for name in names if not _left_out(VARIANTS[name], say)}
    if not chosen:
        raise UserError("nothing left to measure: install what the notes above name, or choose other --methods")
    packages = ["diffusers", "peft", *(v.package for v in chosen.values() if v.package)]
    run = describe(f"step-{work.task}", work.title(), threads=work.threads, packages=packages, note=work.note())
    results = Results(run, path)
    with _workers(chosen, work, say) as workers:
        kernels = {name: worker.kernels for name, worker in workers.items()}
        reports: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
        for number in range(steps + 1):
            say(f"step {number} of {steps}")
            for name, worker in workers.items():
                reports[name].append(worker.ask("step"))
        profiles = {name: worker.ask("profile")["profile"] for name, worker in workers.items()} if profile else {}
    for name, variant in chosen.items():
        row = {
            "name": name,
            "title": variant.title,
            "seconds": [report["seconds"] for report in reports[name][1:]],
            "peak_bytes": max(report["peak_bytes"] for report in reports[name]),
            "kernels": kernels[name],
        }
        results.add(row | ({"profile": profiles[name]} if profile else {}))
    return results


def _left_out(variant: Variant, say: Say) -> bool:
    package = variant.missing_package()
    if package is not None:
        say(f"{variant.title}: left out, {package} is not installed")
    return package is not None


class _Worker:
    def __init__(self, name: str, variant: Variant, work: Work, pipeline: Path):
        self.name = name
        environment = {**os.environ, **QUIET, "OMP_NUM_THREADS": str(work.threads)}
        environment[HUGE_PAGES] = str(int(variant.tuned))  # else torch's default, as users of Python have it
        self.process = subprocess.Popen(
            [sys.executable, "-m", "intaglio.speed.worker", name, json.dumps(asdict(work)), str(pipeline)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.kernels: str | None = self.read()["kernels"]
        """Our kernels' path in this process, None for a baseline; read when it is prepared."""

    def ask(self, what: str) -> dict[str, Any]:
        stream: IO[str] | None = self.process.stdin
        assert stream is not None
        try:
            stream.write(what + "\n")
            stream.flush()
        except BrokenPipeError:
            raise self._stopped() from None
        return self.read()

    def read(self) -> dict[str, Any]:
        """The next report; what libraries print in between is passed over."""
        stream: IO[str] | None = self.process.stdout
        assert stream is not None
        for line in stream:
            if line.startswith("{"):
                report = json.loads(line)
                if "error" in report:
                    raise UserError(f"{self.name}: {report['error']}")
                return report
        raise self._stopped()

    def _stopped(self) -> UserError:
        return UserError(
            f"{self.name} stopped: see its messages above. Often memory is short; then name fewer --methods"
        )


@contextmanager
def _workers(variants: dict[str, Variant], work: Work, say: Say) -> Iterator[dict[str, _Worker]]:
    """The processes, prepared one after the other, since preparing takes more memory than stepping."""
    workers: dict[str, _Worker] = {}
    with tempfile.TemporaryDirectory() as name:
        pipeline = Path(name)
        if any(variant.train_method for variant in variants.values()):
            say("writing the pipeline to train on")
            _write_pipeline(work, pipeline)
        try:
            for name, variant in variants.items():
                say(f"preparing {variant.title}")
                workers[name] = _Worker(name, variant, work, pipeline)
            yield workers
        finally:
            for worker in workers.values():
                worker.process.kill()
                worker.process.wait()


def _write_pipeline(work: Work, folder: Path) -> None:
    """In a process of its own, which gives its memory back."""
    command = [sys.executable, "-m", "intaglio.speed.road", str(folder), json.dumps(asdict(work))]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **QUIET})
    if done.returncode:
        raise UserError(done.stderr.strip().rpartition("error: ")[2])
