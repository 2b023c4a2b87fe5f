"""What a run writes while it goes, so that nothing trained is lost: checkpoints, validation images, the adapter."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from intaglio.adapters.handle import Adapter
from intaglio.errors import UserError
from intaglio.events import Drew, Event, Saved, Warned
from intaglio.runtime.signals import uninterrupted
from intaglio.training.average import weights_to_draw_with
from intaglio.training.checkpoint import Kind, delete_rolling, save_checkpoint
from intaglio.training.setup import Run
from intaglio.training.validation import validate

WRITING = (OSError, SafetensorError)
"""What a full disk, a quota, a read-only folder or a vanished mount raises."""


def after_step(run: Run) -> Iterator[Event]:
    """The checkpoint and the validation images that are due."""
    if not run.accelerator.is_main_process:
        return
    output, validation = run.recipe.output, run.recipe.validation
    minutes = (time.monotonic() - run.saved_at) / 60
    if output.checkpointing_steps and run.done % output.checkpointing_steps == 0:
        yield from checkpoint(run, "steps")
    elif output.checkpointing_minutes and minutes >= output.checkpointing_minutes and run.done < run.plan.steps:
        yield from checkpoint(run, "rolling")
    if validation.validation_steps and run.done % validation.validation_steps == 0 and run.done < run.plan.steps:
        with weights_to_draw_with(run.job.adapter.parameters(), run.state.optimizer, run.state.average):
            yield from draw(run, f"step-{run.done}")


def checkpoint(run: Run, kind: Kind) -> Iterator[Event]:
    """Save one. Where it cannot be written the run goes on, and the next one is tried."""
    run.saved_at = time.monotonic()
    try:
        path = save(run, kind)
    except WRITING as error:
        yield Warned(f"the checkpoint of step {run.done} could not be written ({error}); the run goes on without it")
    else:
        yield Saved(path, run.done, "checkpoint")


def save(run: Run, kind: Kind) -> Path:
    check_finite(run)
    with uninterrupted():
        path = save_checkpoint(run.recipe, run.state, run.done, kind)
        run.saved = run.done
    return path


def keep_what_is_done(run: Run) -> None:
    """A checkpoint of the last whole step, if there is none yet: for a run that is being ended."""
    if run.accelerator.is_main_process and run.done > run.saved and not _not_finite(run):
        save(run, "rolling")


def save_result(run: Run) -> Iterator[Event]:
    """Measure, write and draw with what was trained; where it cannot be written, elsewhere.

    Raises:
        UserError: the adapter is in another folder, which the message names.
    """
    out = run.recipe.output.output_dir
    with weights_to_draw_with(run.job.adapter.parameters(), run.state.optimizer, run.state.average):
        run.loss_last = run.fixed_loss()
        if not run.accelerator.is_main_process:
            return
        check_finite(run)
        try:
            with uninterrupted():
                run.adapter_path = save_adapter_file(run.job.adapter, out)
                run.saved = run.done
        except WRITING as error:
            elsewhere = Path(tempfile.mkdtemp(prefix="intaglio-"))
            save_adapter_file(run.job.adapter, elsewhere)
            raise UserError(f"{out}: cannot be written ({error}). What was trained is in {elsewhere}") from error
        delete_rolling(out)
        yield Saved(run.adapter_path, run.done, "adapter")
        yield from draw(run, "final")


def save_adapter_file(adapter: Adapter, folder: Path) -> Path:
    return adapter.save(folder)


class NotFinite(UserError):
    """The loss or a weight is infinite or not a number. The checkpoints before are better than what there is now."""


def check_loss(run: Run, mean: Any) -> float:
    """The loss of the step under way, as a number.

    Raises:
        NotFinite: it is none.
    """
    value = mean.item()
    if not math.isfinite(value):
        raise NotFinite(
            f"the loss became {value} in step {run.done + 1}; nothing of this step was kept. Try a lower learning_rate "
            f"(now {run.learning_rate:g}), or mixed_precision = 'no'. Saved so far: {run.recipe.output.output_dir}"
        )
    return value


def check_finite(run: Run) -> None:
    """Weights that are not finite are never saved as good.

    Raises:
        NotFinite: some are not.
    """
    bad = _not_finite(run)
    if bad:
        raise NotFinite(
            f"after step {run.done} {len(bad)} trained tensors are not finite, first {bad[0]}; they were not saved. "
            f"Try a lower learning_rate (now {run.learning_rate:g}). Saved so far: {run.recipe.output.output_dir}"
        )


def _not_finite(run: Run) -> list[str]:
    return [n for n, p in run.job.adapter.named_parameters().items() if not torch.isfinite(p.detach()).all()]


def draw(run: Run, name: str) -> Iterator[Event]:
    """The validation prompts' images, by the weights as they are."""
    validation = run.recipe.validation
    if not validation.validation_prompt:
        return
    path = run.recipe.output.output_dir / "samples" / f"{name}.png"
    half = run.dtype != torch.float32  # then accelerate has the denoiser give float32, which the VAE refuses
    with torch.autocast(run.device.type, run.dtype, enabled=half):
        validate(
            run.job.pipeline,
            run.job.family,
            run.job.validation,
            validation.validation_prompt,
            validation.num_validation_images,
            run.recipe.steps.seed,
            run.job.batches.resolution,
            path,
        )
    count = validation.num_validation_images * len(validation.validation_prompt)
    yield Drew(path, count, validation.validation_prompt)
