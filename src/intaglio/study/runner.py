"""Runs -> rows. A finished row is never computed again; rows come in any order, one JSON object a line."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from intaglio.errors import UserError
from intaglio.files import write_atomic
from intaglio.methods.registry import METHODS
from intaglio.methods.settle import default_method_name
from intaglio.study.draw import Drawing
from intaglio.study.evaluate import Evaluator, Report, threads
from intaglio.study.experiment import Run
from intaglio.study.manifest import load_manifest
from intaglio.study.workers import worker_pool

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, none when there is no file. A last line that was cut off by a crash is left out."""
    if not path.is_file():
        return []
    rows = []
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines):
        try:
            rows += [json.loads(line)] if line else []
        except ValueError as error:
            if number < len(lines) - 1:
                raise UserError(
                    f"{path}, line {number + 1}: not JSON ({error}); delete the line, its run is repeated"
                ) from error
    return rows


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
    done = {row["key"]: row for row in read_rows(path)}
    pending = list({run.key: run for run in runs if run.key not in done}.values())
    say(f"{len(runs)} runs, {len(runs) - len(pending)} done already")
    prepare_bases(pending, path.parent)
    _end_last_line(path)
    for number, row in enumerate(_results(pending, path.parent, jobs, torch_threads)):
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        done[row["key"]] = row
        last = row["checkpoints"][-1]["scores"]
        shown = ", ".join(f"{n} {last[n]:.3f}" for n in ("subject", "prompt", "identity", "drift") if n in last)
        what = f"{row['label']}, {row['task']}, seed {row['seed']}"
        say(f"{number + 1}/{len(pending)} {what}: {shown} ({row['seconds']:.0f} s)")
    return [{**done[run.key], "label": run.label} for run in runs]


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


def base_folder(folder: Path, model: str, base: str) -> Path:
    return folder / "bases" / f"{Path(model).name}-{base}"


def perform_run(run: Run, folder: Path, torch_threads: int | None = None) -> Row:
    """Train, score every checkpoint, keep the adapter and a contact sheet, delete the checkpoints.

    A run that was interrupted goes on from its last checkpoint.
    """
    began = time.perf_counter()
    with threads(torch_threads):
        source = run.model if run.base is None else str(base_folder(folder, run.model, run.base))
        where = folder / "runs" / f"{run.label}-{run.task}-{run.seed}-{run.key}"
        summary = _train(run, source, where) if run.train else {}
        points, report = _score(run, source, where)
    sheet = report.sheet()
    write_atomic(where / "sheet.png", lambda temporary: sheet.save(temporary, format="PNG"))
    for checkpoint in where.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    costs = ("trainable_parameters", "adapter_bytes", "base_bytes", "peak_memory_bytes", "seconds_per_step")
    costs = costs[:2] if run.unpack_base else costs  # the others would be those of a float base
    return {
        "key": run.key,
        **run.model_dump(mode="json", exclude={"bench", "drawing", "every"}),
        "learning_rate": summary.get("learning_rate"),
        "drawing": report.drawing,
        "prompt_set": report.prompt_set,
        "encoder": report.encoder,
        "second_encoder": report.second_encoder,
        "prompt_encoder": report.prompt_encoder,
        **{name: summary.get(name) for name in costs},
        "base_hash": summary.get("base_hash"),
        "versions": summary.get("versions"),
        "device": summary.get("device"),
        "seconds": time.perf_counter() - began,
        "folder": str(where.relative_to(folder)),
        "checkpoints": points,
    }


def _train(run: Run, source: str, where: Path) -> dict[str, Any]:
    from intaglio.config import build
    from intaglio.training.checkpoint import list_checkpoints
    from intaglio.training.recipe import Recipe
    from intaglio.training.run import train
    from intaglio.training.summary import read_summary

    if read_summary(where) and list_checkpoints(where):
        return read_summary(where)  # trained, but not scored before the interruption
    manifest = load_manifest(run.bench)
    task = manifest.task(run.task)
    values = {
        "train_batch_size": run.train_batch_size,
        "report_to": "none",
        "compute": _compute(run.train),
        **{name: value for name, value in run.train.items() if name != "base"},
        "pretrained_model_name_or_path": source,
        "instance_data_dir": manifest.folder / task.train,
        "instance_prompt": task.instance_prompt,
        "output_dir": where,
        "seed": run.seed,
        "learning_rate": run.learning_rate,
        "max_train_steps": run.steps,
        "checkpointing_steps": run.every,
        "unpack_base": run.unpack_base,
        "resume_from_checkpoint": "latest" if list_checkpoints(where) else None,
    }
    train(build(Recipe, values, f"{run.label} on {run.task}"), Console(quiet=True))
    return read_summary(where)


def _compute(train: dict[str, Any]) -> str | None:
    """Float unless the recipe says otherwise, so that a row is the same on every machine."""
    name = str(train.get("method", default_method_name("cpu")))
    return None if "integer_gemms" in train or METHODS[name].integer_only else "float"


def _score(run: Run, source: str, where: Path) -> tuple[list[dict[str, Any]], Report]:
    """Scores of every checkpoint, the last one's report with its pictures."""
    from intaglio.adapters.attach import load_adapter
    from intaglio.checkpoints.load import denoiser_of, load_pipeline
    from intaglio.training.checkpoint import list_checkpoints

    evaluator = _evaluator(
        run.bench, run.drawing.model_dump_json(), run.encoder, run.second_encoder, run.prompt_encoder
    )
    task = evaluator.manifest.task(run.task)
    pipeline = load_pipeline(source)
    pipeline.set_progress_bar_config(disable=True)
    if not run.train:
        report = evaluator(pipeline, task, run.prompt_set, ceiling=True)
        return [{"step": 0, "scores": report.scores}], report
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
        report = evaluator(pipeline, task, run.prompt_set, base_unrelated)
        points.append({"step": step, "scores": report.scores})
    assert report is not None
    return points, report


_unrelated: dict[tuple[str, str], list[Image.Image]] = {}


def _base_unrelated(evaluator: Evaluator, source: str, pipeline: Any) -> list[Image.Image]:
    """A base's pictures of unrelated prompts: the same for all runs on it, so drawn once a process."""
    key = (source, evaluator.drawing.model_dump_json())
    if key not in _unrelated:
        _unrelated[key] = evaluator.unrelated(pipeline)
    return _unrelated[key]


@cache
def _evaluator(
    bench: Path, drawing: str, encoder: str, second_encoder: str | None, prompt_encoder: str | None
) -> Evaluator:
    """One for all runs of a process, so that encoders are loaded and true pictures encoded once."""
    settings = Drawing.model_validate_json(drawing)
    encoders = {"encoder": encoder, "second_encoder": second_encoder, "prompt_encoder": prompt_encoder}
    return Evaluator(load_manifest(bench), settings, **encoders)


def _end_last_line(path: Path) -> None:
    """Cut off what a crash left of a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        if text and not text.endswith("\n"):
            path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
