"""The tasks of a benchmark folder: which photos to learn, which prompts to draw, what the truth looks like.

    folder/manifest.json      this table
    folder/train/TASK/        photos, with metadata.jsonl where their captions differ
    folder/cutouts/...png     the truth: RGBA drawings, to be laid on the background that a prompt names
    folder/gallery/...png     the drawings among which an identity is looked up
    folder/terrain/NAME.png   backgrounds with a texture

Paths in the table are relative to the folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field

from intaglio.config import StrictModel
from intaglio.errors import UnknownChoice
from intaglio.files import write_text_atomic

FILE = "manifest.json"
Kind = Literal["subject", "family", "object", "style", "multi", "photos"]
RGB = tuple[int, int, int]


class Prompt(StrictModel):
    text: str
    reference: str
    """Key of `Task.references`: what the image should show."""
    background: str | None = None
    """Key of `Manifest.backgrounds`; None where a prompt asks for none that is known."""
    team_colour: str | None = None
    """Key of `Manifest.team_colours`."""


class Task(StrictModel):
    name: str
    kind: Kind
    tuning: bool = False
    """Learning rates and steps are chosen on tuning tasks; tables hold the others."""
    licence: str
    train: Path
    instance_prompt: str | None = None
    """Caption of the training photos; None where their folder has captions."""
    learned: dict[str, tuple[Path, ...]]
    """The cut-outs behind the training photos: what an image must not be a copy of."""
    references: dict[str, tuple[Path, ...]]
    """Held-out cut-outs of everything that a prompt asks for."""
    gallery: str | None = None
    """Key of `Manifest.galleries`; `references` are looked up in it by their keys."""
    style: str | None = None
    """The style that a style task teaches, for the style judge."""
    team_colour: str | None = None
    """The team colour of the training photos."""
    prompts: dict[str, tuple[Prompt, ...]]
    """By set: "colour", "terrain", "style", "dreambooth"."""

    def learned_for(self, prompt: Prompt) -> tuple[Path, ...]:
        """The learned cut-outs of what the prompt asks for; all, where it asks for something else (a style)."""
        return self.learned.get(prompt.reference) or tuple(file for files in self.learned.values() for file in files)


class Manifest(StrictModel):
    version: Literal[1] = 1
    folder: Path = Field(exclude=True)
    sources: dict[str, str] = Field(default_factory=dict)
    """Package -> what was fetched, with its SHA-256 where a file came."""
    backgrounds: dict[str, RGB | Path] = Field(default_factory=dict)
    """Name -> sRGB, or the file of a texture."""
    palette: tuple[RGB, ...] = ()
    """Levels that team colours replace; the first is the reference shade."""
    team_colours: dict[str, tuple[RGB, RGB, RGB]] = Field(default_factory=dict)
    """Name -> average, highlight and shadow."""
    galleries: dict[str, dict[str, Path]] = Field(default_factory=dict)
    unrelated: tuple[str, ...] = ()
    """Prompts that no task is about, for drift."""
    tasks: tuple[Task, ...]

    def task(self, name: str) -> Task:
        """Raises `UnknownChoice`."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise UnknownChoice("task", name, (task.name for task in self.tasks))

    def select(self, names: tuple[str, ...]) -> list[Task]:
        """Tasks by name or by kind ("subject" for all subjects of the table, "subject:tuning" for the tuning ones)."""
        chosen: list[Task] = []
        for name in names:
            kind, _, tuning = name.partition(":")
            of_kind = [t for t in self.tasks if t.kind == kind and t.tuning == (tuning == "tuning")]
            chosen += [t for t in of_kind or [self.task(name)] if t not in chosen]
        return chosen

    def save(self) -> Path:
        path = self.folder / FILE
        write_text_atomic(path, json.dumps(self.model_dump(mode="json"), indent=1) + "\n")
        return path
