"""The step that `trace_step` names, recorded: every operation goes into `trace.jsonl`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from intaglio.training.setup import Run

TRACE_FILE = "trace.jsonl"
"""In the output folder."""


@contextmanager
def traced(run: Run, step: int) -> Iterator[None]:
    """Record what runs in the block, if it is the step to record."""
    recipe = run.recipe
    if step + 1 != recipe.output.trace_step:
        yield
        return
    from intaglio.trace.recorder import Recorder
    from intaglio.trace.schema import write_trace

    with Recorder() as recorder:
        yield
    if run.accelerator.is_main_process:
        trace = recorder.trace(
            model=recipe.model.pretrained_model_name_or_path,
            method=run.plan.method.name,
            step=step + 1,
            resolution=run.job.batches.resolution,
            batch_size=recipe.steps.train_batch_size,
            gradient_accumulation_steps=recipe.steps.gradient_accumulation_steps,
            mixed_precision=recipe.device.mixed_precision,
            device=str(run.device),
        )
        write_trace(recipe.output.output_dir / TRACE_FILE, trace.header, trace.events)
