"""Runs -> rows. A finished row is never computed again; rows come in any order."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from intaglio.files import write_atomic
from intaglio.study.evaluate import Evaluator, Report, threads
from intaglio.study.rows import COSTS, Checkpoint, Row, append_row, end_last_line, read_rows, relabelled
from intaglio.study.runs import Run, Scoring, base_folder
from intaglio.study.tasks.load import load_manifest
from intaglio.study.workers import worker_pool

SHOWN = ("subject", "prompt", "identity", "drift")
"""Scores that a finished run is reported with."""


def perform(
    runs: Sequence[Run], path: Path, *, jobs: int, torch_threads: int | None, say: Callable[[str], None]
) -> list[Row]:
    """Do the runs that have no row in `path` yet, append their rows, and return the rows of all `runs`, in order.

    Args:
        path: the rows' file (JSON Lines); the runs' folders lie beside it.
        jobs: processes; 1 stays in this one.
        torch_threads: CPU threads of each; None leaves torch's choice.
        say: told about each finished run.
    """
    done = {row.key: row for row in read_rows(path)}
    pending = list({run.key: run for run in runs if run.key not in done}.values())
    say(f"{len(runs)} runs, {len(runs) - len(pending)} done already")
    prepare_bases(pending, path.parent)
    end_last_line(path)
    for number, row in enumerate(_results(pending, path.parent, jobs, torch_threads)):
        append_row(path, row)
        done[row.key] = row
        shown = ", ".join(f"{n} {row.scores[n]:.3f}" for n in SHOWN if n in row.scores)
        what = f"{row.label}, {row.task}, seed {row.seed}"
        say(f"{number + 1}/{len(pending)} {what}: {shown} ({row.seconds:.0f} s)")
    return [relabelled(done[run.key], run.label) for run in runs]


def _results(pending: Sequence[Run], folder: Path, jobs: int, torch_threads: int | None) -> Iterator[Row]:
    if jobs == 1:
        yield from (perform_run(run, folder, torch_threads) for run in pending)
        return
    with worker_pool(jobs) as pool:
        futures = [pool.submit(perform_run, run, folder, torch_threads) for run in pending]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def prepare_bases(runs: Sequence[Run], folder: Path) -> None:
    """Quantize each base once, for all runs."""
    from intaglio.checkpoints.quantize import quantize_pipeline

    for model, base in sorted({(r.model, r.base) for r in runs if r.base is not None}):
        path = base_folder(folder, model, base)
        if not (path / "model_index.json").is_file():
            quantize_pipeline(model, path, format=base)


def perform_run(run: Run, folder: Path, torch_threads: int | None = None) -> Row:
    """Train, score every checkpoint, keep the adapter and a contact sheet, delete the checkpoints.

    A run that was interrupted goes on from its last checkpoint.
    """
    began = time.perf_counter()
    with threads(torch_threads):
        where = folder / run.folder
        summary = _train(run, where)
        points, report = _score(run, folder, where)
    sheet = report.sheet()
    write_atomic(where / "sheet.png", lambda temporary: sheet.save(temporary, format="PNG"))
    for checkpoint in where.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    unpacked = run.recipe is not None and run.recipe.device.unpack_base
    costs = COSTS[:2] if unpacked else COSTS  # the others would be those of a float base
    known: dict[str, Any] = {name: summary.get(name) for name in costs}
    return Row(
        key=run.key,
        label=run.label,
        task=run.task,
        seed=run.seed,
        model=run.model,
        base=run.base,
        recipe=run.told(),
        learning_rate=summary.get("learning_rate"),
        steps=run.steps,
        prompt_set=report.prompt_set,
        encoder=report.encoder,
        second_encoder=report.second_encoder,
        prompt_encoder=report.prompt_encoder,
        drawing=report.drawing,
        **known,
        base_hash=summary.get("base_hash"),
        versions=summary.get("versions"),
        device=summary.get("device"),
        seconds=time.perf_counter() - began,
        folder=run.folder,
        checkpoints=tuple(points),
    )


def _train(run: Run, where: Path) -> dict[str, Any]:
    """The summary of the run's training, empty for a base alone."""
    from intaglio.training.checkpoint import list_checkpoints
    from intaglio.training.loop import fit
    from intaglio.training.summary import read_summary

    if run.recipe is None:
        return {}
    if read_summary(where) and list_checkpoints(where):
        return read_summary(where)  # trained, but not scored before the interruption
    resumed = "latest" if list_checkpoints(where) else None
    fit(run.recipe.changed(resume_from_checkpoint=resumed))
    return read_summary(where)


def _score(run: Run, folder: Path, where: Path) -> tuple[list[Checkpoint], Report]:
    """Scores of every checkpoint, the last one's report with its images."""
    from intaglio.adapters.attach import load_adapter
    from intaglio.checkpoints.load import denoiser_of, load_pipeline
    from intaglio.training.checkpoint import list_checkpoints

    evaluator = _evaluator(run.scoring.model_dump_json())
    task, prompt_set = evaluator.manifest.task(run.task), run.scoring.prompt_set
    source = run.model if run.base is None else str(base_folder(folder, run.model, run.base))
    pipeline = load_pipeline(source)
    pipeline.set_progress_bar_config(disable=True)
    if run.recipe is None:
        report = evaluator(pipeline, task, prompt_set, ceiling=True)
        return [Checkpoint(0, report.scores)], report
    base_unrelated = _base_unrelated(evaluator, source, pipeline)
    checkpoints = {int(path.name.rsplit("-", 1)[1]): path for path in list_checkpoints(where)}
    checkpoints[run.steps] = where
    handle, points, report = None, [], None
    for step, path in sorted(checkpoints.items()):
        if handle is None:
            handle = load_adapter(denoiser_of(pipeline)[1], path)
            handle.unpack_base()  # sampling takes half the time
        else:
            handle.load(path)
        report = evaluator(pipeline, task, prompt_set, base_unrelated)
        points.append(Checkpoint(step, report.scores))
    assert report is not None
    return points, report


_unrelated: dict[tuple[str, str], list[Image.Image]] = {}


def _base_unrelated(evaluator: Evaluator, source: str, pipeline: Any) -> list[Image.Image]:
    """A base's images of unrelated prompts: the same for all runs on it, so drawn once a process."""
    key = (source, evaluator.drawing.model_dump_json())
    if key not in _unrelated:
        _unrelated[key] = evaluator.unrelated(pipeline)
    return _unrelated[key]


@cache
def _evaluator(scoring: str) -> Evaluator:
    """One for all runs of a process, so that encoders are loaded and true images encoded once."""
    how = Scoring.model_validate_json(scoring)
    encoders = {"encoder": how.encoder, "second_encoder": how.second_encoder, "prompt_encoder": how.prompt_encoder}
    return Evaluator(load_manifest(how.bench), how.drawing, **encoders)
