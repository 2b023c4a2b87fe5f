"""`plan.toml` as a strict table: what the benchmark consists of."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import Field

from intaglio.config import StrictModel, load_toml


class Subject(StrictModel):
    unit: str
    image: str
    noun: str
    tuning: bool = False

    @property
    def key(self) -> str:
        return slug(self.unit)


class Group(StrictModel):
    name: str
    tasks: tuple[str, ...]
    """Of one subject each; all of them in one adapter."""
    tuning: bool = False


class Families(StrictModel):
    noun: str
    styles: tuple[str, ...]
    tuning_styles: tuple[str, ...]
    train: tuple[str, ...]
    heldout: tuple[str, ...]


class Objects(StrictModel):
    views: int
    elevation_deg: float
    tuning: tuple[str, ...]
    """Nouns of objects that settings are tuned on."""
    models: dict[str, str]


class StyleTasks(StrictModel):
    styles: tuple[str, ...]
    tuning_styles: tuple[str, ...]
    train: int
    test: int
    groups: tuple[str, ...]


class Prompts(StrictModel):
    token: str
    tokens: tuple[str, ...]
    colours: tuple[str, ...]
    team_colours: tuple[str, ...]
    style_colours: tuple[str, ...]
    colour: str
    terrain: str
    style: str
    unrelated: tuple[str, ...]


class Plan(StrictModel):
    packages: dict[str, str]
    sha256: dict[str, str] = Field(default_factory=dict)
    """Package, as named in `packages` and `styles`, -> hash of its archive."""
    styles: dict[str, str]
    licences: dict[str, str]
    subjects: tuple[Subject, ...]
    groups: tuple[Group, ...]
    families: Families
    objects: Objects
    style_tasks: StyleTasks
    prompts: Prompts
    terrains: dict[str, str]


@cache
def load_plan() -> Plan:
    return load_toml(Path(__file__).with_name("plan.toml"), Plan)


def slug(text: str) -> str:
    """'Elvish Archer' -> 'elvish-archer'."""
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
