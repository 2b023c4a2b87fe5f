"""The loop."""

from __future__ import annotations

import gc
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from intaglio.errors import UserError
from intaglio.layers.kinds import AdapterLayer
from intaglio.methods.registry import method_options
from intaglio.metrics.memory import PeakMemory
from intaglio.training.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint, with_compute_of_checkpoint
from intaglio.training.optimizer import MovingAverage, learning_rate_factor, make_optimizer
from intaglio.training.prepare import DTYPES, Job, Plan, plan, prepare
from intaglio.training.recipe import Recipe
from intaglio.training.summary import Summary, write_card
from intaglio.training.validation import validate

FIXED_SET = 64
"""(image, timestep, noise) triples that the loss before and after is measured on."""

TRACE_FILE = "trace.jsonl"
"""Where `trace_step` is recorded, in the output folder."""

logger = logging.getLogger(__name__)


def train(recipe: Recipe, console: Console | None = None) -> Summary:
    """Train as the recipe says; everything lands in `recipe.output.output_dir`.

    Runs alone or as one of several processes of `accelerate launch`.

    Raises:
        UserError: the recipe, the model or the photos cannot be used (before anything is loaded), or the loss is not
            finite (nothing that was saved is lost).
    """
    started = time.perf_counter()
    console = console or Console(stderr=True)
    planned = plan(with_compute_of_checkpoint(recipe), int(os.environ.get("WORLD_SIZE", "1")))
    recipe = planned.recipe
    checkpoint = find_checkpoint(recipe)
    console.print(str(planned.settled), soft_wrap=True, highlight=False)
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # without it, processes of torchrun would not find each other
        mixed_precision=recipe.device.mixed_precision,
        log_with=None if recipe.output.report_to == "none" else recipe.output.report_to,
        project_dir=str(recipe.output.output_dir / "logs"),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)],
    )
    with PeakMemory(accelerator.device) as peak:
        job = prepare(planned, accelerator.device, accelerator.process_index, accelerator.num_processes)
        loop = _Loop(planned, job, accelerator, console)
        loop.run(checkpoint)
    summary = loop.summary(peak.bytes, time.perf_counter() - started)
    if accelerator.is_main_process:
        write_card(recipe.output.output_dir, summary)
        summary.save(recipe.output.output_dir)
        if recipe.output.push_to_hub:
            _push(recipe)
    accelerator.end_training()
    return summary


class _Loop:
    def __init__(self, planned: Plan, job: Job, accelerator: Accelerator, console: Console):
        self.recipe, self.plan, self.job, self.accelerator = planned.recipe, planned, job, accelerator
        self.console = console
        self.dtype = DTYPES[self.recipe.device.mixed_precision]
        self.learning_rate = self.recipe.optimizer.learning_rate or planned.method.learning_rate
        parameters = job.adapter.parameters()
        self.optimizer = make_optimizer(self.recipe, parameters, self.learning_rate)
        self.average = (
            None if self.recipe.steps.ema_decay is None else MovingAverage(parameters, self.recipe.steps.ema_decay)
        )
        self.step_seconds: list[float] = []
        self.loss_first = self.loss_last = math.nan

    def run(self, checkpoint: Path | None) -> None:
        recipe, job, accelerator = self.recipe, self.job, self.accelerator
        self.loss_first = self._fixed_loss()
        done = 0 if checkpoint is None else load_checkpoint(checkpoint, job.adapter, self.optimizer, self.average)
        # The optimizer is not prepared: its state must stay ours to save, and it needs no sharding.
        model = accelerator.prepare_model(job.denoiser)
        scaler = torch.amp.GradScaler(accelerator.device.type, enabled=recipe.device.mixed_precision == "fp16")
        if recipe.output.report_to != "none":
            accelerator.init_trackers("train")
        with self._progress(done) as report, _no_search_of_what_stays():
            for step in range(done, self.plan.steps):
                began = time.perf_counter()
                run_step = self._traced_step if step + 1 == recipe.output.trace_step else self._step
                loss = run_step(model, scaler, step)
                if self.average is not None:
                    self.average.update(step)
                self.step_seconds.append(time.perf_counter() - began)
                report(step + 1, loss)
                accelerator.log({"loss": loss, "learning_rate": self.optimizer.param_groups[0]["lr"]}, step=step + 1)
                self._after(step + 1)
        if accelerator.num_processes > 1:
            accelerator.unwrap_model(model)
        if self.average is not None:
            self.average.swap()
        self.loss_last = self._fixed_loss()
        if accelerator.is_main_process:
            self.adapter_path = job.adapter.save(recipe.output.output_dir)
            self._validate("final")

    def _step(self, model: torch.nn.Module, scaler: Any, step: int) -> float:
        """One optimizer step; returns the mean loss over processes and accumulated batches."""
        recipe, accumulation = self.recipe, self.recipe.steps.gradient_accumulation_steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * learning_rate_factor(recipe, step, self.plan.steps)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.accelerator.device)
        for micro in range(accumulation):
            batch = self.job.batches(step * accumulation + micro).to(self.accelerator.device, self.dtype)
            last = micro == accumulation - 1
            with self.accelerator.no_sync(model) if not last else _nothing():
                loss = self.job.loss(model, batch, samples=recipe.steps.train_batch_size)
                scaler.scale(loss / accumulation).backward()
            total += loss.detach() / accumulation
        mean = self.accelerator.reduce(total, "mean")
        assert isinstance(mean, torch.Tensor)
        value = mean.item()
        if not math.isfinite(value):
            raise UserError(
                f"the loss became {value} in step {step + 1}; nothing of this step was kept. Try a lower learning_rate "
                f"(now {self.learning_rate:g}), or mixed_precision = 'no'. Saved so far: {recipe.output.output_dir}"
            )
        scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.job.adapter.parameters(), recipe.optimizer.max_grad_norm)
        scaler.step(self.optimizer)
        scaler.update()
        return value

    def _traced_step(self, model: torch.nn.Module, scaler: Any, step: int) -> float:
        """The same step, recorded: every operation goes into `trace.jsonl`."""
        from intaglio.trace.recorder import Recorder
        from intaglio.trace.schema import write_trace

        recipe = self.recipe
        with Recorder() as recorder:
            loss = self._step(model, scaler, step)
        if self.accelerator.is_main_process:
            trace = recorder.trace(
                model=recipe.model.pretrained_model_name_or_path,
                method=self.plan.method.name,
                step=step + 1,
                resolution=self.job.batches.resolution,
                batch_size=recipe.steps.train_batch_size,
                gradient_accumulation_steps=recipe.steps.gradient_accumulation_steps,
                mixed_precision=recipe.device.mixed_precision,
                device=str(self.accelerator.device),
            )
            write_trace(recipe.output.output_dir / TRACE_FILE, trace.header, trace.events)
        return loss

    def _after(self, done: int) -> None:
        recipe = self.recipe
        if not self.accelerator.is_main_process:
            return
        if recipe.output.checkpointing_steps and done % recipe.output.checkpointing_steps == 0:
            save_checkpoint(recipe, self.job.adapter, self.optimizer, self.average, done)
        if (
            recipe.validation.validation_steps
            and done % recipe.validation.validation_steps == 0
            and done < self.plan.steps
        ):
            self._validate(f"step-{done}")

    def _validate(self, name: str) -> None:
        recipe = self.recipe
        if recipe.validation.validation_prompt:
            path = recipe.output.output_dir / "samples" / f"{name}.png"
            count = recipe.validation.num_validation_images
            half = self.dtype != torch.float32  # then accelerate has the denoiser give float32, which the VAE refuses
            with torch.autocast(self.accelerator.device.type, self.dtype, enabled=half):
                validate(
                    self.job.pipeline,
                    self.job.family,
                    self.job.validation,
                    recipe.validation.validation_prompt,
                    count,
                    recipe.steps.seed,
                    self.job.batches.resolution,
                    path,
                )

    def _fixed_loss(self) -> float:
        batches = [b.to(self.accelerator.device, self.dtype) for b in self.job.batches.fixed_set(FIXED_SET)]
        with self.accelerator.autocast():
            return self.job.loss.mean(self.job.denoiser, batches)

    @contextmanager
    def _progress(self, done: int) -> Iterator[Any]:
        progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[speed]} s/step"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.accelerator.is_main_process,
        )
        with progress:
            task = progress.add_task(
                f"Training {self.plan.method.name}", total=self.plan.steps, completed=done, loss="-", speed="-"
            )
            smooth = None

            def report(step: int, loss: float) -> None:
                nonlocal smooth
                smooth = loss if smooth is None else 0.95 * smooth + 0.05 * loss
                recent = self.step_seconds[-20:]
                progress.update(task, completed=step, loss=f"{smooth:.4f}", speed=f"{sum(recent) / len(recent):.2f}")

            yield report

    def summary(self, peak_bytes: int, seconds: float) -> Summary:
        recipe, adapter = self.recipe, self.job.adapter
        times = sorted(self.step_seconds)
        record = adapter.header().base
        return Summary(
            method=self.plan.method.name,
            options=method_options(adapter.method),
            base_format=None if record is None else record.format,
            base_hash=adapter.base_hash,
            pretrained_model_name_or_path=recipe.model.pretrained_model_name_or_path,
            instance_prompt=recipe.data.instance_prompt,
            output_dir=str(recipe.output.output_dir),
            trainable_parameters=adapter.num_parameters,
            adapter_bytes=self.adapter_path.stat().st_size if self.accelerator.is_main_process else 0,
            base_bytes=base_bytes(self.job.denoiser),
            peak_memory_bytes=peak_bytes,
            seconds_per_step=times[len(times) // 2] if times else 0.0,
            steps=self.plan.steps,
            train_batch_size=recipe.steps.train_batch_size,
            learning_rate=self.learning_rate,
            mixed_precision=recipe.device.mixed_precision,
            loss_first=self.loss_first,
            loss_last=self.loss_last,
            seconds=seconds,
            device=str(self.accelerator.device),
            versions=_versions(),
            component=adapter.header().component,
            resolution=self.job.batches.resolution,
        )


def base_bytes(denoiser: torch.nn.Module) -> int:
    """Bytes of the denoiser's weights, without what an adapter adds to them."""
    total = 0
    for module in denoiser.modules():
        if isinstance(module, (AdapterLayer, torch.nn.ParameterList)):
            continue
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        total += sum(t.nbytes for t in own)
    return total


@contextmanager
def _no_search_of_what_stays() -> Iterator[None]:
    """Keep Python's search for garbage, in the middle of a step, from going through the whole model."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("intaglio", "torch", "diffusers")}


def _push(recipe: Recipe) -> None:
    from huggingface_hub import HfApi

    repo = HfApi().create_repo(recipe.output.hub_model_id or recipe.output.output_dir.name, exist_ok=True)
    HfApi().upload_folder(
        repo_id=repo.repo_id, folder_path=str(recipe.output.output_dir), ignore_patterns=["checkpoint-*", "logs/*"]
    )
