"""From a plan to all that the loop works with: device, model, adapter, optimizer, and what a checkpoint gives back."""

from __future__ import annotations

import gc
import math
import os
import shutil
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState

from intaglio.errors import UserError
from intaglio.events import Encoded, Event, Loading, Warned
from intaglio.files import sweep
from intaglio.training.average import MovingAverage
from intaglio.training.checkpoint import (
    Checkpoint,
    State,
    check_same_run,
    find_checkpoint,
    load_checkpoint,
    set_aside,
)
from intaglio.training.encode import DTYPES
from intaglio.training.optimizers import make_optimizer
from intaglio.training.plan import Plan, plan
from intaglio.training.prepare import Job, prepare
from intaglio.training.recipe import Recipe
from intaglio.training.summary import human_bytes

FIXED_SET = 64
"""(image, timestep, noise) triples that the loss before and after is measured on."""


@dataclass
class Run:
    """A run under way."""

    plan: Plan
    job: Job
    accelerator: Accelerator
    model: Any
    """The denoiser, as the processes share it."""
    state: State
    learning_rate: float
    loss_first: float
    """On the fixed set, before the first step of all."""
    done: int
    """Optimizer steps that are whole."""
    saved: int
    """Steps that the newest checkpoint has."""
    saved_at: float = field(default_factory=time.monotonic)
    seconds: list[float] = field(default_factory=list)
    """Of each step of this process."""
    loss_last: float = math.nan
    """On the fixed set, after the last step."""
    adapter_path: Path | None = None
    """The file that was trained, once it is written (main process)."""

    @property
    def recipe(self) -> Recipe:
        return self.plan.recipe

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.recipe.device.mixed_precision]

    def fixed_loss(self) -> float:
        """Mean over one fixed set of (image, timestep, noise)."""
        return _fixed_loss(self.job, self.accelerator, self.dtype)


def plan_run(recipe: Recipe) -> tuple[Plan, Checkpoint | None, list[str]]:
    """The plan, the checkpoint that it goes on from, and what to warn of. Nothing is loaded or written.

    Raises:
        UserError: all that is wrong with the model, the method, the data or the checkpoint.
    """
    checkpoint, warnings = find_checkpoint(recipe)
    if checkpoint is not None and recipe.device.compute == "auto":  # also on another machine
        recipe = recipe.changed(compute=checkpoint.recipe["device"]["compute"])
    planned = plan(recipe, int(os.environ.get("WORLD_SIZE", "1")))
    if checkpoint is not None:
        warnings += check_same_run(planned.recipe, checkpoint)
    return planned, checkpoint, warnings


def make_accelerator(recipe: Recipe) -> Accelerator:
    """The device and the processes of this run; a run before it in this process may have had another precision."""
    AcceleratorState._reset_state()  # the processes stay
    return Accelerator(
        cpu=not torch.accelerator.is_available(),  # without it, processes of torchrun would not find each other
        mixed_precision=recipe.device.mixed_precision,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)],
    )


def set_up(planned: Plan, checkpoint: Checkpoint | None, accelerator: Accelerator) -> Generator[Event, None, Run]:
    """Load, attach, encode, resume."""
    recipe = planned.recipe
    out = recipe.output.output_dir
    if accelerator.is_main_process:
        sweep(out)
    yield Loading(recipe.model.pretrained_model_name_or_path)
    job = prepare(planned, accelerator.device, accelerator.process_index, accelerator.num_processes)
    yield encoded(job)
    parameters, rate = job.adapter.parameters(), recipe.optimizer.learning_rate_for(planned.method)
    decay = recipe.steps.ema_decay
    state = State(
        job.adapter,
        make_optimizer(recipe.optimizer.build(), parameters, rate),
        None if decay is None else MovingAverage(parameters, decay),
        torch.amp.GradScaler(accelerator.device.type, enabled=recipe.device.mixed_precision == "fp16"),
    )
    loss_first = _fixed_loss(job, accelerator, DTYPES[recipe.device.mixed_precision])
    done = 0 if checkpoint is None else load_checkpoint(checkpoint.path, state)
    # The optimizer is not prepared: its state must stay ours to save, and it needs no sharding.
    model = accelerator.prepare_model(job.denoiser)
    if accelerator.is_main_process:
        yield from (Warned(message) for message in check_space(recipe, sum(p.nbytes for p in parameters)))
        if checkpoint is None and (earlier := set_aside(out)) is not None:
            yield Warned(f"{out} had checkpoints of an earlier run; they are in {earlier} now")
    return Run(planned, job, accelerator, model, state, rate, loss_first, done, saved=done)


def encoded(job: Job) -> Encoded:
    sources = job.batches.sources
    texts = {id(source.text): source.text for source in sources}.values()
    return Encoded(
        images=sum(len(source.latents.photos) for source in sources),
        texts=sum(map(len, texts)),
        from_cache=sum(source.latents.from_disk for source in sources) + sum(text.from_disk for text in texts),
    )


def check_space(recipe: Recipe, adapter_bytes: int) -> list[str]:
    """What to warn of where the disk is nearly full.

    Raises:
        UserError: what is trained would not fit.
    """
    out = recipe.output.output_dir
    free = shutil.disk_usage(out).free
    if free < 1.1 * adapter_bytes:
        needed = human_bytes(adapter_bytes)
        raise UserError(f"{out}: {human_bytes(free)} are free, and the adapter takes {needed}; give another output_dir")
    if free < 5 * adapter_bytes:
        return [f"{out}: {human_bytes(free)} are free; a checkpoint takes up to {human_bytes(4 * adapter_bytes)}"]
    return []


def _fixed_loss(job: Job, accelerator: Accelerator, dtype: torch.dtype) -> float:
    batches = [batch.to(accelerator.device, dtype) for batch in job.batches.fixed_set(FIXED_SET)]
    with accelerator.autocast():
        return job.loss.mean(job.denoiser, batches)


@contextmanager
def no_search_of_what_stays() -> Iterator[None]:
    """Keep Python's search for garbage, in the middle of a step, from going through the whole model."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
