"""What is compared, as a strict table: `intaglio study run RECIPE.toml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from intaglio.config import StrictModel
from intaglio.metrics.encoders import DEFAULT_ENCODER, SECOND_ENCODER
from intaglio.study.draw import Drawing
from intaglio.training.recipe import Recipe, flag_of, into_sections, sections

NOT_FOR_METHODS = {
    "instance_data_dir",
    "instance_prompt",
    "output_dir",
    "seed",
    "pretrained_model_name_or_path",
    "max_train_steps",
    "num_train_epochs",
    "checkpointing_steps",
    "learning_rate",
}
"""Keys of a training recipe that the experiment sets itself."""


class MethodSpec(StrictModel):
    """One row of the table."""

    label: str
    train: dict[str, Any] = Field(default_factory=dict)
    """Keys of a training recipe: method, base, rank, ...; empty measures the base alone, untrained."""
    base: str | None = None
    """With an empty `train`: the format of the base; None is float."""
    model: str | None = None
    """A model of its own, used as it is: a folder that is quantized already, for instance. [the experiment's]"""
    learning_rate: float | None = None
    """None: the tuned one, or the method's default."""
    steps: int | None = None
    """None: the tuned number, or the experiment's."""
    learning_rates: tuple[float, ...] = ()
    """What tuning tries."""
    tuned_as: str | None = None
    """Label whose tuned settings are taken, for the same method on another format of base: it is not tuned itself."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        _check_train(self.train, self.label)
        return self


def _check_train(keys: dict[str, Any], whose: str) -> None:
    """Unknown keys, and those that the experiment sets itself; values are checked when the runs are planned."""
    told = into_sections(keys)
    unknown = sorted(set(told) - set(Recipe.model_fields))
    own = {
        flag_of(key, sections()[name].model_fields[key])
        for name in told
        if isinstance(told[name], dict)
        for key in told[name]
        if _is_field(name, key)
    }
    if unknown:
        raise ValueError(f"{whose}: {', '.join(unknown)} in train is no key of a training recipe")
    if own & NOT_FOR_METHODS:
        raise ValueError(f"{whose}: {', '.join(sorted(own & NOT_FOR_METHODS))} in train is set by the experiment")


def _is_field(section: str, key: str) -> bool:
    return section in Recipe.model_fields and key in sections()[section].model_fields


class Tuning(StrictModel):
    """Every method gets the same budget: as many learning rates, the same steps, tasks and seeds."""

    tasks: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    choose_steps: bool = True
    """Whether a checkpoint before the last may win; not where the learning rate falls to 0 over the run."""
    tie: float = Field(0.01, ge=0)
    """Subject scores less than this below the best count as equal to it, about the noise: the least drift decides."""


class Experiment(StrictModel):
    name: str
    bench: Path = Path("out/bench")
    out: Path | None = None
    """[out/compare/NAME]"""
    model: str = "embedded"
    tasks: tuple[str, ...]
    """Names or kinds: "subject" takes all subjects of the table."""
    seeds: tuple[int, ...] = (0, 1, 2)
    prompt_set: str | None = None
    steps: int = Field(400, ge=1)
    checkpoints: int = Field(4, ge=1)
    """Evenly spaced over the steps; each is scored."""
    train_batch_size: int = Field(4, ge=1)
    train: dict[str, Any] = Field(default_factory=dict)
    """Keys of a training recipe, for every method."""
    compute: Literal["auto", "integer", "float"] = "float"
    """Arithmetic of methods whose `train` names none; float gives the same rows on every machine."""
    unpack_base: bool = False
    """Train on unpacked weights: faster on a CPU, but then rows have no peak memory and no seconds a step."""
    encoder: str = DEFAULT_ENCODER
    second_encoder: str | None = SECOND_ENCODER
    prompt_encoder: str | None = None
    matched_prompt: float = 0.9
    """Methods are compared by the best subject score among the checkpoints whose prompt score is at least this."""
    reference: str | None = None
    """Label that the others are compared with, pair by pair."""
    drawing: Drawing = Drawing()
    tuning: Tuning | None = None
    methods: tuple[MethodSpec, ...]

    @model_validator(mode="after")
    def _together(self) -> Self:
        _check_train(self.train, "all methods")
        problems = []
        labels = [m.label for m in self.methods]
        problems += [f"label {n!r} stands twice" for n in sorted({n for n in labels if labels.count(n) > 1})]
        if self.reference is not None and self.reference not in labels:
            problems.append(f"reference {self.reference!r} is none of the labels {', '.join(labels)}")
        if self.steps % self.checkpoints:
            problems.append(f"steps ({self.steps}) must be a multiple of checkpoints ({self.checkpoints})")
        tuned = [m for m in self.methods if m.train and m.tuned_as is None]
        counts = {len(m.learning_rates) for m in tuned}
        for method in self.methods:
            if method.tuned_as is not None and method.tuned_as not in {m.label for m in tuned}:
                problems.append(f"{method.label}: tuned_as {method.tuned_as!r} is no label that is tuned")
        if self.tuning is not None and (len(counts) > 1 or 0 in counts):
            problems.append(f"tuning gives every method as many learning_rates, at least one; got {sorted(counts)}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def folder(self) -> Path:
        return self.out or Path("out/compare") / self.name
