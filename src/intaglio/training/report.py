"""What stays of a run: its events as JSON lines and in TensorBoard, its summary, its card."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch

from intaglio.events import Event, Finished, Loading, Planned, Stepped
from intaglio.layers.kinds import AdapterLayer
from intaglio.methods.registry import method_options
from intaglio.runtime.peak import PeakMemory
from intaglio.training.recipe import OutputSection
from intaglio.training.setup import Run
from intaglio.training.summary import Summary, write_card

EVENTS_FILE = "events.jsonl"
"""In the output folder: a line for each event, with its name and the time in seconds since 1970."""


def recorded(output: OutputSection, events: Iterator[Event]) -> Generator[Event]:
    """The events, each written down before it is passed on; the main process alone writes.

    The first few are held back until the run has begun to load: until then the folder may be another run's.
    """
    record = _Record(output) if os.environ.get("RANK", "0") == "0" else None
    try:
        for event in events:
            if record is not None:
                record(event)
            yield event
    finally:
        events.close()  # type: ignore[attr-defined]
        if record is not None:
            record.close()


class _Record:
    def __init__(self, output: OutputSection):
        self.output, self.held, self.resumed = output, [], False
        self.lines: Any = None
        self.board: Any = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Planned):
            self.resumed = event.done > 0
        if self.lines is None:
            self.held.append((time.time(), event))
            if isinstance(event, Loading):
                self._open()
        else:
            self._write(time.time(), event)

    def _open(self) -> None:
        folder = self.output.output_dir
        folder.mkdir(parents=True, exist_ok=True)
        self.lines = (folder / EVENTS_FILE).open("a" if self.resumed else "w", encoding="utf-8")
        if self.output.report_to == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "logs" / "train"))
        for when, event in self.held:
            self._write(when, event)

    def _write(self, when: float, event: Event) -> None:
        line = {"event": type(event).__name__.lower(), "time": when, **asdict(event)}
        self.lines.write(json.dumps(line, default=str) + "\n")
        self.lines.flush()
        if self.board is not None and isinstance(event, Stepped):
            self.board.add_scalar("loss", event.loss, event.step)
            self.board.add_scalar("learning_rate", event.learning_rate, event.step)

    def close(self) -> None:
        if self.lines is not None:
            self.lines.close()
        if self.board is not None:
            self.board.close()


def write_report(run: Run, peak: PeakMemory, seconds: float) -> Finished:
    """Summary and card of a finished run, on the disk and as the last event; and on the Hub, if that was asked for."""
    summary = summarize(run, peak, seconds)
    output = run.recipe.output
    if run.accelerator.is_main_process:
        write_card(output.output_dir, summary)
        summary.save(output.output_dir)
        if output.push_to_hub:
            _push(output)
    return Finished(summary)


def summarize(run: Run, peak: PeakMemory, seconds: float) -> Summary:
    recipe, adapter, times = run.recipe, run.job.adapter, sorted(run.seconds)
    record = adapter.header().base
    return Summary(
        method=run.plan.method.name,
        options=method_options(adapter.method),
        base_format=None if record is None else record.format,
        base_hash=adapter.base_hash,
        pretrained_model_name_or_path=recipe.model.pretrained_model_name_or_path,
        instance_prompt=recipe.data.instance_prompt,
        output_dir=str(recipe.output.output_dir),
        trainable_parameters=adapter.num_parameters,
        adapter_bytes=0 if run.adapter_path is None else run.adapter_path.stat().st_size,
        base_bytes=base_bytes(run.job.denoiser),
        peak_memory_bytes=peak.bytes,
        process_peak_bytes=peak.process_bytes,
        seconds_per_step=times[len(times) // 2] if times else 0.0,
        steps=run.plan.steps,
        train_batch_size=recipe.steps.train_batch_size,
        learning_rate=run.learning_rate,
        mixed_precision=recipe.device.mixed_precision,
        loss_first=run.loss_first,
        loss_last=run.loss_last,
        seconds=seconds,
        device=str(run.device),
        component=adapter.header().component,
        resolution=run.job.batches.resolution,
        versions={name: version(name) for name in ("intaglio", "torch", "diffusers")},
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


def _push(output: OutputSection) -> None:
    from huggingface_hub import HfApi

    repo = HfApi().create_repo(output.hub_model_id or output.output_dir.name, exist_ok=True)
    HfApi().upload_folder(
        repo_id=repo.repo_id,
        folder_path=str(output.output_dir),
        ignore_patterns=["checkpoint-*", "earlier-*", "logs/*", ".*"],
    )
