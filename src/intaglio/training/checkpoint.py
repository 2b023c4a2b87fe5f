"""Checkpoints: the adapter, the optimizer's state and the moving average, in safetensors, whole or not at all.

Learning rate, data order and noise are functions of the step, so a run that resumes goes on bit for bit.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from intaglio.adapters.handle import Adapter
from intaglio.errors import Problems, UserError
from intaglio.files import new_folder
from intaglio.training.optimizer import MovingAverage
from intaglio.training.recipe import Recipe

STATE_FILE = "training_state.safetensors"


def save_checkpoint(
    recipe: Recipe, adapter: Adapter, optimizer: torch.optim.Optimizer, average: MovingAverage | None, step: int
) -> Path:
    """Write `checkpoint-<step>` and then delete what is over the limit."""
    path = recipe.output.output_dir / f"checkpoint-{step}"
    names = {id(p): n for n, p in adapter.named_parameters().items()}
    tensors: dict[str, Tensor] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            value = torch.as_tensor(value)
            tensors[f"optimizer.{key}.{names[id(parameter)]}"] = value.detach().cpu().contiguous()
    if average is not None:
        for parameter, value in zip(average.parameters, average.averages, strict=True):
            tensors[f"average.{names[id(parameter)]}"] = value.cpu().contiguous()
    metadata = {"step": str(step), "recipe": recipe.model_dump_json()}
    with new_folder(path) as folder:
        adapter.save(folder)
        save_file(tensors, folder / STATE_FILE, metadata)
    if recipe.output.checkpoints_total_limit is not None:
        for old in list_checkpoints(recipe.output.output_dir)[: -recipe.output.checkpoints_total_limit]:
            shutil.rmtree(old)
    return path


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found = []
    for path in output_dir.glob("checkpoint-*"):
        match = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if match and (path / STATE_FILE).is_file():
            found.append((int(match[1]), path))
    return [path for _, path in sorted(found)]


def find_checkpoint(recipe: Recipe) -> Path | None:
    """The checkpoint to resume from, None when none is asked for.

    Raises:
        UserError: there is none; a run never starts from zero when it was told to resume.
        Problems: it belongs to a run with other settings.
    """
    path = _asked_checkpoint(recipe)
    if path is None:
        return None
    changed = recipe.differences(_recipe_of(path))
    if changed:
        raise Problems(f"{path} is of a run with other settings; a resumed run must be the same run", changed)
    return path


def with_compute_of_checkpoint(recipe: Recipe) -> Recipe:
    """The recipe, computing as the run to resume did where it leaves that open: also on another machine."""
    path = _asked_checkpoint(recipe)
    if path is None or recipe.device.compute != "auto":
        return recipe
    return recipe.changed(compute=_recipe_of(path).get("device", {}).get("compute", "auto"))


def _recipe_of(checkpoint: Path) -> dict[str, Any]:
    """The recipe that a checkpoint was made by, in sections."""
    with safe_open(checkpoint / STATE_FILE, framework="pt") as file:
        return json.loads(file.metadata()["recipe"])


def _asked_checkpoint(recipe: Recipe) -> Path | None:
    """The folder that `resume_from_checkpoint` names."""
    asked = recipe.output.resume_from_checkpoint
    if asked is None:
        return None
    if asked == "latest":
        found = list_checkpoints(recipe.output.output_dir)
        if not found:
            raise UserError(
                f"{recipe.output.output_dir}: no checkpoint to resume from; "
                "leave out --resume_from_checkpoint to start anew"
            )
        path = found[-1]
    else:
        path = Path(asked)
        if not (path / STATE_FILE).is_file():
            raise UserError(f"{path}: not a checkpoint (no {STATE_FILE}); expected a folder like checkpoint-100")
    return path


def load_checkpoint(
    path: Path, adapter: Adapter, optimizer: torch.optim.Optimizer, average: MovingAverage | None
) -> int:
    """Take over adapter, optimizer and average; returns the number of steps done."""
    adapter.load(path)
    tensors = load_file(path / STATE_FILE)
    with safe_open(path / STATE_FILE, framework="pt") as file:
        step = int(file.metadata()["step"])
    parameters = adapter.named_parameters()
    for key, value in tensors.items():
        kind, _, rest = key.partition(".")
        if kind == "optimizer":
            field, _, name = rest.partition(".")
            parameter = parameters[name]
            # torch keeps `step` on the CPU; every other state lies beside its parameter.
            optimizer.state[parameter][field] = value if field == "step" else value.to(parameter.device)
    if average is not None:
        for parameter, value in zip(average.parameters, average.averages, strict=True):
            name = next(n for n, p in parameters.items() if p is parameter)
            value.copy_(tensors[f"average.{name}"])
    return step
