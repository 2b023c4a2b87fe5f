"""An experiment -> its runs: each embeds the whole recipe that it trains by."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from intaglio.config import StrictModel, build
from intaglio.methods.registry import METHODS
from intaglio.methods.settle import default_method_name
from intaglio.study.draw import Drawing
from intaglio.study.experiment import Experiment, MethodSpec
from intaglio.study.tasks.manifest import Manifest, Task
from intaglio.training.recipe import Recipe, into_sections, merged

Tuned = dict[str, dict[str, Any]]
"""Label -> {"learning_rate", "steps"}, where tuning has chosen them."""


class Scoring(StrictModel):
    """How images are drawn and measured."""

    bench: Path
    prompt_set: str | None
    drawing: Drawing
    encoder: str
    second_encoder: str | None
    prompt_encoder: str | None


class Run(StrictModel):
    """One method on one task with one seed: one row."""

    key: str
    """Equal for runs that would give the same row; made of what was asked, as in version 0.1."""
    label: str
    task: str
    seed: int
    model: str
    base: str | None
    """Format of the base that is loaded, quantized once for all runs; None is float."""
    recipe: Recipe | None
    """None: the base alone, untrained."""
    scoring: Scoring

    @property
    def steps(self) -> int:
        return 0 if self.recipe is None else self.recipe.steps.max_train_steps or 0

    def told(self) -> dict[str, Any]:
        """What the recipe was told of the method and the steps, in sections: what a row keeps of it."""
        if self.recipe is None:
            return {}
        return self.recipe.model_dump(mode="json", exclude_unset=True, exclude={"model", "data", "output"})

    @property
    def folder(self) -> str:
        """Beside rows.jsonl."""
        return run_folder(self.label, self.task, self.seed, self.key)


def run_folder(label: str, task: str, seed: int, key: str) -> str:
    return f"runs/{label}-{task}-{seed}-{key}"


def base_folder(folder: Path, model: str, base: str) -> Path:
    return folder / "bases" / f"{Path(model).name}-{base}"


def table_runs(experiment: Experiment, manifest: Manifest, tuned: Tuned) -> list[Run]:
    """The runs of the table, one task after the other, so that early rows already compare methods.

    Raises:
        Problems: a method, or a value of a recipe, that cannot be.
    """
    return [
        _run(experiment, spec, task, manifest, seed, _rate(spec, tuned), _steps(experiment, spec, tuned))
        for seed in experiment.seeds
        for task in manifest.select(experiment.tasks)
        for spec in experiment.methods
    ]


def tuning_runs(experiment: Experiment, manifest: Manifest) -> list[Run]:
    """All learning rates of all methods on the tuning tasks."""
    assert experiment.tuning is not None
    return [
        _run(experiment, spec, task, manifest, seed, rate, experiment.steps)
        for seed in experiment.tuning.seeds
        for task in manifest.select(experiment.tuning.tasks)
        for spec in experiment.methods
        for rate in spec.learning_rates
        if spec.train and spec.tuned_as is None
    ]


def _rate(spec: MethodSpec, tuned: Tuned) -> float | None:
    return spec.learning_rate or tuned.get(spec.tuned_as or spec.label, {}).get("learning_rate")


def _steps(experiment: Experiment, spec: MethodSpec, tuned: Tuned) -> int:
    return spec.steps or tuned.get(spec.tuned_as or spec.label, {}).get("steps") or experiment.steps


def _run(
    experiment: Experiment,
    spec: MethodSpec,
    task: Task,
    manifest: Manifest,
    seed: int,
    learning_rate: float | None,
    steps: int,
) -> Run:
    told = {**experiment.train, **spec.train} if spec.train else {}
    model, base = spec.model or experiment.model, _base_of(spec, told)
    every = experiment.steps // experiment.checkpoints
    scoring = {name: getattr(experiment, name) for name in Scoring.model_fields}
    asked = {name: value for name, value in scoring.items() if name not in ("bench", "drawing")}
    asked |= {"model": model, "task": task.name, "seed": seed, "base": base, "train": told}
    asked |= {"learning_rate": learning_rate, "steps": steps if spec.train else 0, "every": every}
    asked |= {"train_batch_size": experiment.train_batch_size, "unpack_base": experiment.unpack_base}
    if experiment.compute != "float":  # version 0.1 knew no other
        asked["compute"] = experiment.compute
    key = _key(asked | {"drawing": experiment.drawing.model_dump(mode="json")})
    told_by_us = {
        "pretrained_model_name_or_path": model if base is None else str(base_folder(experiment.folder, model, base)),
        "instance_data_dir": manifest.folder / task.train,
        "instance_prompt": task.instance_prompt,
        "output_dir": experiment.folder / run_folder(spec.label, task.name, seed, key),
        "seed": seed,
        "learning_rate": learning_rate,
        "max_train_steps": steps,
        "checkpointing_steps": every,
        "unpack_base": experiment.unpack_base,
    }
    subject = f"{spec.label} on {task.name}"
    recipe = _recipe(experiment, told, told_by_us, subject) if spec.train else None
    return Run(
        key=key, label=spec.label, task=task.name, seed=seed, model=model, base=base, recipe=recipe,
        scoring=Scoring(**scoring),
    )  # fmt: skip


def _recipe(experiment: Experiment, told: dict[str, Any], told_by_us: dict[str, Any], subject: str) -> Recipe:
    """The experiment's defaults, what the method's row says over them, and what the experiment decides over both."""
    defaults: dict[str, Any] = {"train_batch_size": experiment.train_batch_size, "report_to": "none"}
    if not METHODS[_method_name(told)].integer_only:
        defaults["compute"] = experiment.compute
    values = merged(into_sections(defaults), into_sections(told))
    values.get("base", {}).pop("format", None)  # the model that is loaded is quantized already
    return build(Recipe, merged(values, into_sections(told_by_us)), subject)


def _method_name(told: dict[str, Any]) -> str:
    """The one that rows have where no method is named is the CPU's default: the same on every machine."""
    name = into_sections(told).get("method", {}).get("name") or default_method_name("cpu")
    if name not in METHODS:
        from intaglio.methods.registry import build_method

        build_method(name, {})  # says what there is
    return name


def _base_of(spec: MethodSpec, told: dict[str, Any]) -> str | None:
    """Format of the base to quantize the model to; None for a float base, and for a model of its own."""
    if not spec.train:
        return spec.base
    method = METHODS[_method_name(told)]
    if not method.needs_base or spec.model is not None:
        return None
    return into_sections(told).get("base", {}).get("format") or method.default_base


def _key(asked: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
