"""`intaglio compare RECIPE.toml`: what is compared, as a strict table, and the runs that it asks for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from intaglio.config import StrictModel
from intaglio.metrics.encoders import DEFAULT_ENCODER, SECOND_ENCODER
from intaglio.study.draw import Drawing
from intaglio.study.manifest import Manifest
from intaglio.training.recipe import Recipe

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
    unknown = sorted(set(keys) - set(Recipe.model_fields))
    own = sorted(set(keys) & NOT_FOR_METHODS)
    if unknown:
        raise ValueError(f"{whose}: {', '.join(unknown)} in train is no key of a training recipe")
    if own:
        raise ValueError(f"{whose}: {', '.join(own)} in train is set by the experiment")


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


class Run(StrictModel):
    """One method on one task with one seed: one row."""

    label: str
    model: str
    bench: Path
    task: str
    seed: int
    prompt_set: str | None
    base: str | None
    """Format of the base that is loaded; None is float."""
    train: dict[str, Any]
    learning_rate: float | None
    steps: int
    every: int
    train_batch_size: int
    unpack_base: bool
    encoder: str
    second_encoder: str | None
    prompt_encoder: str | None
    drawing: Drawing

    @property
    def key(self) -> str:
        """Equal for runs that would give the same row."""
        values = self.model_dump(mode="json", exclude={"label", "bench"})
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def table_runs(experiment: Experiment, manifest: Manifest, tuned: dict[str, dict[str, Any]]) -> list[Run]:
    """The runs of the table, one task after the other, so that early rows already compare methods.

    Args:
        tuned: label -> {"learning_rate", "steps"}, where tuning has chosen them.
    """
    return [
        _run(experiment, spec, task.name, seed, _rate(spec, tuned), _steps(experiment, spec, tuned))
        for seed in experiment.seeds
        for task in manifest.select(experiment.tasks)
        for spec in experiment.methods
    ]


def tuning_runs(experiment: Experiment, manifest: Manifest) -> list[Run]:
    """All learning rates of all methods on the tuning tasks."""
    assert experiment.tuning is not None
    return [
        _run(experiment, spec, task.name, seed, rate, experiment.steps)
        for seed in experiment.tuning.seeds
        for task in manifest.select(experiment.tuning.tasks)
        for spec in experiment.methods
        for rate in spec.learning_rates
        if spec.train and spec.tuned_as is None
    ]


def _rate(spec: MethodSpec, tuned: dict[str, dict[str, Any]]) -> float | None:
    return spec.learning_rate or tuned.get(spec.tuned_as or spec.label, {}).get("learning_rate")


def _steps(experiment: Experiment, spec: MethodSpec, tuned: dict[str, dict[str, Any]]) -> int:
    return spec.steps or tuned.get(spec.tuned_as or spec.label, {}).get("steps") or experiment.steps


def _run(
    experiment: Experiment, spec: MethodSpec, task: str, seed: int, learning_rate: float | None, steps: int
) -> Run:
    from intaglio.methods.registry import build_method
    from intaglio.methods.settle import default_method_name

    base = spec.base
    if spec.train:
        method = build_method(str(spec.train.get("method", default_method_name("cpu"))), {})
        base = spec.train.get("base", method.default_base) if method.needs_base and spec.model is None else None
    return Run(
        label=spec.label,
        model=spec.model or experiment.model,
        bench=experiment.bench,
        task=task,
        seed=seed,
        prompt_set=experiment.prompt_set,
        base=base,
        train={**experiment.train, **spec.train} if spec.train else {},
        learning_rate=learning_rate,
        steps=steps if spec.train else 0,
        every=experiment.steps // experiment.checkpoints,
        train_batch_size=experiment.train_batch_size,
        unpack_base=experiment.unpack_base,
        encoder=experiment.encoder,
        second_encoder=experiment.second_encoder,
        prompt_encoder=experiment.prompt_encoder,
        drawing=experiment.drawing,
    )
