"""What a run says while it goes, as data. A command shows it, files record it, a program reads it; nobody prints.

Training, drawing, quantizing and comparing use the same few kinds; each is a frozen dataclass of plain values, so
`asdict` gives a line of JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Event:
    """Something that happened."""


@dataclass(frozen=True)
class Planned(Event):
    """Everything is checked; nothing is loaded yet."""

    what: str
    """One line for people."""
    steps: int
    """How many there will be in all."""
    done: int = 0
    """How many a run that goes on had done before."""


@dataclass(frozen=True)
class Loading(Event):
    """Something that may take a while begins."""

    what: str


@dataclass(frozen=True)
class Encoded(Event):
    """The photos and texts are encoded."""

    images: int
    texts: int
    from_cache: int = 0
    """How many of them were read from `cache_dir`."""


@dataclass(frozen=True)
class Stepped(Event):
    """One step is done: an optimizer step, a layer, a run."""

    step: int
    """From 1."""
    steps: int
    loss: float
    learning_rate: float
    seconds: float
    memory_bytes: int
    """In use by the process, or on a GPU by torch."""


@dataclass(frozen=True)
class Drew(Event):
    """Images were drawn and written."""

    path: Path
    images: int
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Saved(Event):
    """A file or folder is complete on the disk."""

    path: Path
    step: int
    kind: str
    """"checkpoint" or "adapter"."""


@dataclass(frozen=True)
class Warned(Event):
    """Something that the user should know; the run goes on."""

    message: str


@dataclass(frozen=True)
class Finished(Event):
    """The run is over and everything is written. The last event."""

    result: Any
    """Of training: its `Summary`."""
