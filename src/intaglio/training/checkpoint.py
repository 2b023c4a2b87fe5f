"""Checkpoints: the adapter, the optimizer's state and the moving average, in safetensors, whole or not at all.

Learning rate, data order and noise are functions of the step, so a run that resumes goes on bit for bit.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

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
FREE_TO_CHANGE = {
    "output_dir",
    "max_train_steps",
    "num_train_epochs",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "resume_from_checkpoint",
    "validation_prompt",
    "validation_steps",
    "num_validation_images",
    "report_to",
    "push_to_hub",
    "hub_model_id",
    "gradient_checkpointing",
    "unpack_base",
    "cache_latents",
}
"""What a resumed run may be told anew without becoming another run."""


def save_checkpoint(
    recipe: Recipe, adapter: Adapter, optimizer: torch.optim.Optimizer, average: MovingAverage | None, step: int
) -> Path:
    """Write `checkpoint-<step>` and then delete what is over the limit."""
    path = recipe.output_dir / f"checkpoint-{step}"
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
        adapter.save(folder, exact=True)
        save_file(tensors, folder / STATE_FILE, metadata)
    if recipe.checkpoints_total_limit is not None:
        for old in list_checkpoints(recipe.output_dir)[: -recipe.checkpoints_total_limit]:
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
    asked = recipe.resume_from_checkpoint
    if asked is None:
        return None
    if asked == "latest":
        found = list_checkpoints(recipe.output_dir)
        if not found:
            raise UserError(
                f"{recipe.output_dir}: no checkpoint to resume from; leave out --resume_from_checkpoint to start anew"
            )
        path = found[-1]
    else:
        path = Path(asked)
        if not (path / STATE_FILE).is_file():
            raise UserError(f"{path}: not a checkpoint (no {STATE_FILE}); expected a folder like checkpoint-100")
    with safe_open(path / STATE_FILE, framework="pt") as file:
        before = json.loads(file.metadata()["recipe"])
    now = json.loads(recipe.model_dump_json())
    changed = [k for k in now if k not in FREE_TO_CHANGE and now[k] != before.get(k)]
    if changed:
        lines = [f"{k}: was {before.get(k)!r}, now {now[k]!r}" for k in changed]
        raise Problems(f"{path} is of a run with other settings; a resumed run must be the same run", lines)
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
