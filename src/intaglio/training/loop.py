"""The loop: from a recipe to an adapter, told event by event.

>>> for event in train(recipe):
...     print(event)

Whatever ends it (closing the generator, Ctrl-C, SIGTERM, no memory), the last whole step is saved as a checkpoint, and
with `resume_from_checkpoint = "latest"` the run goes on from there bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch

from intaglio.events import Event, Finished, Planned, Stepped, Warned
from intaglio.runtime.lock import folder_lock
from intaglio.runtime.peak import PeakMemory, memory_bytes
from intaglio.runtime.signals import uninterrupted
from intaglio.training.keep import NotFinite, after_step, check_loss, keep_what_is_done, save_result
from intaglio.training.recipe import Recipe
from intaglio.training.report import recorded, write_report
from intaglio.training.setup import Run, make_accelerator, no_search_of_what_stays, plan_run, set_up
from intaglio.training.summary import Summary
from intaglio.training.trace_step import traced


def train(recipe: Recipe) -> Iterator[Event]:
    """Train as the recipe says, alone or as one of several processes; all lands in `recipe.output.output_dir`.

    The last event is `Finished`, with the `Summary`.

    Raises:
        UserError: the recipe, the model or the photos cannot be used (before anything is loaded), another run writes to
            the folder, the disk is full, or the loss is not finite. Nothing that was saved is lost.
    """
    yield from recorded(recipe.output, _train(recipe))


def fit(recipe: Recipe, show: Callable[[Event], object] = lambda event: None) -> Summary:
    """Train to the end; `show` is told each event."""
    summary = None
    for event in train(recipe):
        show(event)
        summary = event.result if isinstance(event, Finished) else None
    assert isinstance(summary, Summary)
    return summary


def _train(recipe: Recipe) -> Iterator[Event]:
    began = time.perf_counter()
    planned, checkpoint, warnings = plan_run(recipe)
    yield Planned(str(planned.settled), planned.steps, 0 if checkpoint is None else checkpoint.step)
    yield from map(Warned, warnings)
    accelerator = make_accelerator(planned.recipe)
    with folder_lock(planned.recipe.output.output_dir, take=accelerator.is_main_process):
        with PeakMemory(accelerator.device) as peak:
            run = yield from set_up(planned, checkpoint, accelerator)
            try:
                with no_search_of_what_stays():
                    while run.done < planned.steps:
                        yield _step(run)
                        yield from after_step(run)
                yield from save_result(run)
            except NotFinite:
                raise
            except BaseException:
                keep_what_is_done(run)
                raise
        yield write_report(run, peak, time.perf_counter() - began)


def _step(run: Run) -> Stepped:
    """One optimizer step: its loss is the mean over processes and accumulated batches."""
    began, step, state, recipe = time.perf_counter(), run.done, run.state, run.recipe
    accumulation = recipe.steps.gradient_accumulation_steps
    rate = run.learning_rate * recipe.optimizer.factor(step, run.plan.steps)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.zero_grad(set_to_none=True)
    with traced(run, step):
        total = torch.zeros((), device=run.device)
        for micro in range(accumulation):
            batch = run.job.batches(step * accumulation + micro).to(run.device, run.dtype)
            with nullcontext() if micro == accumulation - 1 else run.accelerator.no_sync(run.model):
                loss = run.job.loss(run.model, batch, samples=recipe.steps.train_batch_size)
                state.scaler.scale(loss / accumulation).backward()
            total += loss.detach() / accumulation
        mean = check_loss(run, run.accelerator.reduce(total, "mean"))
        state.scaler.unscale_(state.optimizer)
        torch.nn.utils.clip_grad_norm_(run.job.adapter.parameters(), recipe.optimizer.max_grad_norm)
        with uninterrupted():  # a step is whole, or has not begun
            state.scaler.step(state.optimizer)
            state.scaler.update()
            if state.average is not None:
                state.average.update(step)
            run.done = step + 1
    run.seconds.append(time.perf_counter() - began)
    return Stepped(run.done, run.plan.steps, mean, rate, run.seconds[-1], memory_bytes(run.device))
