"""Short trainings on the embedded base and the sample photos, for what compares loss curves."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

from accelerate.state import AcceleratorState

from intaglio.errors import UserError
from intaglio.training.loop import fit
from intaglio.training.recipe import Recipe


@dataclass(frozen=True)
class Task:
    steps: int
    batch_size: int
    seed: int
    data: Path
    """A folder of photos."""
    prompt: str | None
    """None where the folder has captions."""


def recipe(task: Task, folder: Path, **options: object) -> Recipe:
    values = {
        "instance_data_dir": task.data,
        "instance_prompt": task.prompt,
        "output_dir": folder,
        "max_train_steps": task.steps,
        "train_batch_size": task.batch_size,
        "seed": task.seed,
        "report_to": "tensorboard",
    }
    return Recipe.model_validate({**values, **options})


def run(task: Task, **options: object) -> tuple[list[float], float]:
    """The loss of every step, from the log, and the last one on the fixed set; not a number where training stopped."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tempfile.TemporaryDirectory() as name:
        # One process trains in several precisions.
        AcceleratorState._reset_state()
        try:
            last = fit(recipe(task, Path(name), **options)).loss_last
        except UserError as error:
            print(error)
            last = math.nan
        log = EventAccumulator(name + "/logs/train", size_guidance={"scalars": 0})
        log.Reload()
        curve = [event.value for event in log.Scalars("loss")]
        return curve + [math.nan] * (task.steps - len(curve)), last
