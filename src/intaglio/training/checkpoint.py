"""Checkpoints: all that a run needs to go on bit for bit, in safetensors, whole or not at all, with checksums.

Learning rate, data order and noise are functions of the step, so what is kept is the adapter, the optimizer's state,
the moving average and the scaler of fp16.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from intaglio.adapters.handle import Adapter
from intaglio.errors import Problems, UserError
from intaglio.files import new_folder, write_text_atomic
from intaglio.training.average import MovingAverage
from intaglio.training.optimizer_state import load_optimizer_state, optimizer_state
from intaglio.training.recipe import Recipe

STATE_FILE = "training_state.safetensors"
SUMS_FILE = "checksums.json"
Kind = Literal["steps", "rolling"]
"""Every so many steps, and kept; or every so many minutes and at a stop, and replaced by the next one."""


@dataclass
class State:
    """What a checkpoint is taken of, and given back to."""

    adapter: Adapter
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None
    scaler: Any


@dataclass(frozen=True)
class Checkpoint:
    """One that was found whole."""

    path: Path
    step: int
    kind: Kind
    recipe: dict[str, Any]
    """`model_dump` of the recipe that it was made by."""


def save_checkpoint(recipe: Recipe, state: State, step: int, kind: Kind = "steps") -> Path:
    """Write `checkpoint-<step>`; then the rolling ones before it go, and what is over `checkpoints_total_limit`."""
    out = recipe.output.output_dir
    path = out / f"checkpoint-{step}"
    parameters = state.adapter.named_parameters()
    tensors, rest = optimizer_state(state.optimizer, parameters)
    tensors = {f"optimizer.{place}": value for place, value in tensors.items()}
    if state.average is not None:
        for name, value in zip(parameters, state.average.averages, strict=True):
            tensors[f"average.{name}"] = value.cpu().contiguous()
    metadata = {
        "step": str(step),
        "kind": kind,
        "recipe": recipe.model_dump_json(),
        "optimizer": rest,
        "scaler": json.dumps(state.scaler.state_dict()),
    }
    with new_folder(path) as folder:
        state.adapter.save(folder, exact=True)
        save_file(tensors, folder / STATE_FILE, metadata)
        sums = {file.name: _sha256(file) for file in sorted(folder.iterdir())}
        write_text_atomic(folder / SUMS_FILE, json.dumps(sums, indent=2) + "\n")
    _delete_old(out, path, recipe.output.checkpoints_total_limit)
    return path


def load_checkpoint(path: Path, state: State) -> int:
    """Give the state what `save_checkpoint` wrote; returns the number of steps done."""
    state.adapter.load(path)
    tensors = load_file(path / STATE_FILE)
    with safe_open(path / STATE_FILE, framework="pt") as file:
        metadata = file.metadata()
    parameters = state.adapter.named_parameters()
    of_optimizer = {k.removeprefix("optimizer."): v for k, v in tensors.items() if k.startswith("optimizer.")}
    load_optimizer_state(state.optimizer, parameters, of_optimizer, metadata["optimizer"])
    if state.average is not None:
        for name, value in zip(parameters, state.average.averages, strict=True):
            value.copy_(tensors[f"average.{name}"])
    state.scaler.load_state_dict(json.loads(metadata["scaler"]))
    return int(metadata["step"])


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Checkpoints by step, oldest first; whether they are whole is not looked at."""
    found = []
    for path in output_dir.glob("checkpoint-*"):
        match = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if match and (path / STATE_FILE).is_file():
            found.append((int(match[1]), path))
    return [path for _, path in sorted(found)]


def read_checkpoint(path: Path) -> Checkpoint:
    """Check a checkpoint's files and read what it says of itself.

    Raises:
        UserError: no checkpoint, a damaged one, or one of another version.
    """
    if not (path / STATE_FILE).is_file():
        raise UserError(f"{path}: not a checkpoint (no {STATE_FILE}); expected a folder like checkpoint-100")
    try:
        sums = json.loads((path / SUMS_FILE).read_text(encoding="utf-8"))
        wrong = [name for name, digest in sums.items() if _sha256(path / name) != digest]
        with safe_open(path / STATE_FILE, framework="pt") as file:
            metadata = file.metadata()
        found = Checkpoint(path, int(metadata["step"]), metadata["kind"], json.loads(metadata["recipe"]))
    except FileNotFoundError as error:
        if error.filename and error.filename.endswith(SUMS_FILE):
            raise UserError(f"{path}: made by version 0.1.0 (no {SUMS_FILE}); finish that run with 0.1.0") from error
        raise UserError(f"{path}: damaged: {error.filename} is missing") from error
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{path}: damaged: {error}") from error
    if wrong:
        raise UserError(f"{path}: damaged: {', '.join(wrong)} changed since it was written (sha256)")
    return found


def find_checkpoint(recipe: Recipe) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint to resume from, None when none is asked for; and what to warn of.

    `latest` takes the newest that is whole, and names the damaged ones that it passes over.

    Raises:
        UserError: there is none; a run never starts from zero when it was told to resume.
    """
    asked, out = recipe.output.resume_from_checkpoint, recipe.output.output_dir
    if asked is None:
        return None, []
    if asked != "latest":
        return read_checkpoint(Path(asked)), []
    damaged = []
    for path in reversed(list_checkpoints(out)):
        try:
            return read_checkpoint(path), [f"{message}; the one before is taken" for message in damaged]
        except UserError as error:
            damaged.append(str(error))
    if damaged:
        raise Problems(f"{out}: no checkpoint is whole; leave out --resume_from_checkpoint to start anew", damaged)
    raise UserError(f"{out}: no checkpoint to resume from; leave out --resume_from_checkpoint to start anew")


def check_same_run(recipe: Recipe, checkpoint: Checkpoint) -> list[str]:
    """What to warn of before a run goes on; `recipe` has nothing left open.

    Raises:
        Problems: the checkpoint belongs to a run with other settings.
    """
    changed = recipe.differences(checkpoint.recipe)
    if changed:
        text = f"{checkpoint.path} is of a run with other settings; a resumed run must be the same run"
        raise Problems(text, changed)
    lengths = [recipe.steps.max_train_steps, recipe.steps.num_train_epochs]
    then = checkpoint.recipe["steps"]
    if recipe.optimizer.falls and lengths != [then["max_train_steps"], then["num_train_epochs"]]:
        return [
            f"the run has another length now, and lr_scheduler {recipe.optimizer.lr_scheduler} depends on it: the rate "
            "jumps here, and the result is not that of an uninterrupted run of either length"
        ]
    return []


def set_aside(output_dir: Path) -> Path | None:
    """Move the checkpoints of an earlier run into `earlier-1` (`-2`, ...): a new run neither resumes nor replaces them.

    Returns the folder, None where there were none.
    """
    old = list_checkpoints(output_dir)
    if not old:
        return None
    number = 1
    while (output_dir / f"earlier-{number}").exists():
        number += 1
    folder = output_dir / f"earlier-{number}"
    folder.mkdir()
    for path in old:
        path.rename(folder / path.name)
    return folder


def delete_rolling(output_dir: Path) -> None:
    """When a run is finished and its adapter is written."""
    for path in list_checkpoints(output_dir):
        if _kind(path) == "rolling":
            shutil.rmtree(path)


def _delete_old(output_dir: Path, newest: Path, limit: int | None) -> None:
    before = [path for path in list_checkpoints(output_dir) if path != newest]
    kept = []
    for path in before:
        if _kind(path) == "rolling":
            shutil.rmtree(path)
        else:
            kept.append(path)
    if limit is not None:
        for path in kept[: max(0, len(kept) + 1 - limit)]:
            shutil.rmtree(path)


def _kind(path: Path) -> str | None:
    """What kind it says it is; a damaged one says none, and is left for the user to see."""
    try:
        with safe_open(path / STATE_FILE, framework="pt") as file:
            return (file.metadata() or {}).get("kind")
    except (SafetensorError, OSError):
        return None


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
