"""Events of a run on the terminal, by rich."""

from __future__ import annotations

import os
import shlex
from types import TracebackType
from typing import TYPE_CHECKING

from intaglio.events import Drew, Encoded, Event, Loading, Planned, Saved, Stepped, Warned

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

SMOOTHING = 0.95
RECENT_STEPS = 20


class Show:
    """`with Show(console) as show: show(event)`. Of several processes the first one shows."""

    def __init__(self, console: Console, title: str = "Training"):
        self.console, self.title = console, title
        self.quiet = os.environ.get("RANK", "0") != "0"
        self.step = self.steps = 0
        self._progress: Progress | None = None
        self._done = 0
        self._loss: float | None = None
        self._seconds: list[float] = []

    def __enter__(self) -> Show:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, event: Event) -> None:
        if self.quiet:
            return
        match event:
            case Planned():
                self._done, self.steps = event.done, event.steps
                self._print(event.what)
                if event.done:
                    self._print(f"going on after step {event.done} of {event.steps}")
            case Loading():
                self._print(f"loading {event.what}")
            case Encoded():
                kept = f", {event.from_cache} of them read from the cache" if event.from_cache else ""
                self._print(f"encoded {event.images} images and {event.texts} texts{kept}")
            case Warned():
                self.console.print("[bold yellow]warning:[/]", end=" ")
                self._print(event.message)
            case Drew():
                self._print(f"{event.images} images: {event.path}")
            case Saved() if event.kind == "checkpoint":
                self._print(f"checkpoint of step {event.step}: {event.path}")
            case Stepped():
                self._advance(event)

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)

    def _advance(self, event: Stepped) -> None:
        if self._progress is None:
            self._progress = self._bar()
        self.step = event.step
        self._loss = event.loss if self._loss is None else SMOOTHING * self._loss + (1 - SMOOTHING) * event.loss
        self._seconds = [*self._seconds[1 - RECENT_STEPS :], event.seconds]
        speed = sum(self._seconds) / len(self._seconds)
        task = self._progress.task_ids[0]
        self._progress.update(task, completed=event.step, loss=f"{self._loss:.4f}", speed=f"{speed:.2f}")
        if event.step == event.steps:
            self._progress.stop()

    def _bar(self) -> Progress:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[speed]} s/step"),
            TimeRemainingColumn(),
            console=self.console,
        )
        progress.add_task(self.title, total=self.steps, completed=self._done, loss="-", speed="-")
        progress.start()
        return progress


def command_to_go_on(arguments: list[str]) -> str:
    """What was typed, to be typed again: quoted for a shell, and resuming."""
    kept, skip = [], False
    for argument in arguments:
        name = argument.partition("=")[0].replace("-", "_")
        if skip:
            skip = False
        elif name == "__resume_from_checkpoint":
            skip = "=" not in argument
        else:
            kept.append(argument)
    return shlex.join(["intaglio", *kept, "--resume_from_checkpoint", "latest"])
