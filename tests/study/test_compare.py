"""Experiments: strict recipes, runs that are never repeated, a whole one from end to end on a tiny model."""

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

import intaglio.study.runner as runner
from intaglio.config import build, load_toml
from intaglio.errors import Problems, UserError
from intaglio.metrics.encoders import DEFAULT_ENCODER, SECOND_ENCODER
from intaglio.study.compare import compare
from intaglio.study.experiment import Experiment
from intaglio.study.rows import Checkpoint, Row, read_rows
from intaglio.study.runs import table_runs, tuning_runs
from intaglio.training.recipe import Recipe

RECIPES = Path(__file__).parents[2] / "recipes"
PEQA = {"label": "peqa", "train": {"method": "peqa", "base": "int8"}, "learning_rate": 1e-2}
TUNE = {"label": "tuneqdm", "train": {"method": "tuneqdm", "base": "int8", "num_intervals": 2}}
DRAWING = {"num_prompts": 1, "images_per_prompt": 2, "num_unrelated": 1, "num_inference_steps": 1}


def experiment(bench, tmp_path, **changes):
    values = {
        "name": "tiny",
        "bench": bench.folder,
        "out": tmp_path / "out",
        "tasks": ["elf"],
        "seeds": [0],
        "steps": 2,
        "checkpoints": 2,
        "train_batch_size": 1,
        "drawing": DRAWING,
        "methods": [PEQA, TUNE],
    }
    return build(Experiment, values | changes, "tiny.toml")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda p: p.stem)
def test_every_recipe_is_valid(path):
    if path.stem.startswith(("accelerator", "rtl")):
        pytest.skip("a recipe of the accelerator")
    if "method" in tomllib.loads(path.read_text()):
        load_toml(path, Recipe)
        return
    recipe = load_toml(path, Experiment)
    assert recipe.name == path.stem


def test_all_mistakes_at_once(bench, tmp_path):
    with pytest.raises(Problems) as error:
        experiment(bench, tmp_path, methods=[PEQA, PEQA], reference="pqea", checkpoints=3, tuning={"tasks": ["orc"]})
    for part in ("label 'peqa' stands twice", "reference 'pqea' is none", "multiple of checkpoints", "learning_rates"):
        assert part in str(error.value)
    with pytest.raises(Problems, match="rnak in train is no key of a training recipe"):
        experiment(bench, tmp_path, methods=[{"label": "a", "train": {"rnak": 2}}])
    with pytest.raises(Problems, match="seed in train is set by the experiment"):
        experiment(bench, tmp_path, methods=[{"label": "a", "train": {"seed": 2}}])


def test_runs_of_table_and_tuning(bench, tmp_path):
    methods = [{**PEQA, "learning_rate": None, "learning_rates": [1, 2]}, {**TUNE, "learning_rates": [3, 4]}]
    methods.append({"label": "base", "base": "int8"})
    recipe = experiment(bench, tmp_path, methods=methods, seeds=[0, 1], tuning={"tasks": ["subject:tuning"]})
    tuning = tuning_runs(recipe, bench)
    assert [(r.label, r.task, rate(r)) for r in tuning] == [
        ("peqa", "orc", 1.0),
        ("peqa", "orc", 2.0),
        ("tuneqdm", "orc", 3.0),
        ("tuneqdm", "orc", 4.0),
    ]
    table = table_runs(recipe, bench, {"peqa": {"learning_rate": 2.0, "steps": 1}})
    assert [(r.label, r.seed, rate(r), r.steps) for r in table[:3]] == [
        ("peqa", 0, 2.0, 1),
        ("tuneqdm", 0, None, 2),
        ("base", 0, None, 0),
    ]
    assert len(table) == 6
    assert len({r.key for r in tuning + table}) == 10


def test_keys_for_all_methods_and_a_model_of_its_own(bench, tmp_path):
    own = {**PEQA, "label": "own", "model": "out/bases/mine", "train": {**PEQA["train"], "lr_scheduler": "linear"}}
    base = {"label": "base", "base": "int8"}
    recipe = experiment(bench, tmp_path, methods=[PEQA, own, base], train={"lr_scheduler": "cosine"})
    runs = table_runs(recipe, bench, {})
    assert [(r.model, r.base, r.recipe and r.recipe.optimizer.lr_scheduler) for r in runs] == [
        ("embedded", "int8", "cosine"),
        ("out/bases/mine", None, "linear"),  # quantized already
        ("embedded", "int8", None),
    ]
    with pytest.raises(Problems, match="all methods: seed in train is set by the experiment"):
        experiment(bench, tmp_path, train={"seed": 1})


def test_settings_tuned_on_one_base_serve_another(bench, tmp_path):
    tuned = {**TUNE, "learning_rates": [3, 4]}
    other = {"label": "int4", "train": {"method": "tuneqdm", "base": "int4"}, "tuned_as": "tuneqdm"}
    recipe = experiment(bench, tmp_path, methods=[tuned, other], tuning={"tasks": ["subject:tuning"]})
    assert [r.label for r in tuning_runs(recipe, bench)] == ["tuneqdm", "tuneqdm"]
    table = table_runs(recipe, bench, {"tuneqdm": {"learning_rate": 4.0, "steps": 1}})
    assert [(r.label, r.base, rate(r), r.steps) for r in table] == [
        ("tuneqdm", "int8", 4.0, 1),
        ("int4", "int4", 4.0, 1),
    ]
    with pytest.raises(Problems, match="int4: tuned_as 'tune' is no label that is tuned"):
        experiment(bench, tmp_path, methods=[tuned, {**other, "tuned_as": "tune"}], tuning={"tasks": ["orc"]})


def rate(run):
    return run.recipe and run.recipe.optimizer.learning_rate


def fake_run(run, folder, torch_threads=None):
    points = (Checkpoint(1, {"subject": 0.5, "prompt": 1.0}),)
    return Row(key=run.key, label=run.label, task=run.task, seed=run.seed, seconds=1.0, checkpoints=points)


def test_finished_runs_are_not_repeated(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "prepare_bases", lambda runs, folder: None)
    monkeypatch.setattr(runner, "perform_run", fake_run)
    path = tmp_path / "rows.jsonl"
    runs = table_runs(experiment(bench, tmp_path), bench, {})
    done = lambda few: runner.perform(few, path, jobs=1, torch_threads=None, say=lambda _: None)  # noqa: E731
    done(runs[:1])
    with path.open("a") as file:
        file.write('{"key": "cut off by a cra')
    monkeypatch.setattr(
        runner, "perform_run", lambda run, *rest: fake_run(run, *rest) if run != runs[0] else pytest.fail("again")
    )
    rows = done(runs)
    assert [row.key for row in rows] == [run.key for run in runs]
    assert len(path.read_text().splitlines()) == 2
    path.write_text("{\n" + path.read_text())
    with pytest.raises(UserError, match=r"rows.jsonl, line 1: no row .* delete the line, its run is repeated"):
        read_rows(path)


def test_from_end_to_end(bench, tmp_path, tiny_model):
    recipe = experiment(bench, tmp_path, model=str(tiny_model), reference="peqa")
    folder = compare(recipe, torch_threads=1)
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == ["peqa", "tuneqdm"]
    assert [[p["step"] for p in row["checkpoints"]] for row in rows] == [[1, 2], [1, 2]]
    for row in rows:
        assert {"subject", "identity", "prompt", "drift", "memorisation"} <= set(row["checkpoints"][-1]["scores"])
        assert row["adapter_bytes"] > 0
        assert (row["encoder"], row["second_encoder"]) == (DEFAULT_ENCODER, SECOND_ENCODER)
        assert {"subject_second", "identity_second"} <= set(row["checkpoints"][-1]["scores"])
        assert not list((folder / row["folder"]).glob("checkpoint-*"))
    assert rows[0]["base_hash"] == rows[1]["base_hash"]
    for name in (
        "table.md",
        "table.csv",
        "trade-off.png",
        "drift.png",
        "adapter.png",
        "peak-memory.png",
        "seconds-per-step.png",
    ):
        assert (folder / name).stat().st_size > 100, name
    assert (folder / "sheet-elf.png").is_file()
    before = (folder / "rows.jsonl").read_text()
    compare(recipe, torch_threads=1)
    assert (folder / "rows.jsonl").read_text() == before


def test_evaluate_on_the_command_line(bench, tmp_path, tiny_model):
    from intaglio.cli.evaluate import command

    flags = ["--task", "elf", "--bench", str(bench.folder), "--pretrained_model_name_or_path", str(tiny_model)]
    flags += ["--num_prompts", "1", "--images-per-prompt", "1", "--num_inference_steps", "1", "--out", str(tmp_path)]
    done = CliRunner().invoke(command, flags, catch_exceptions=False)
    assert done.exit_code == 0
    report = json.loads((tmp_path / "scores.json").read_text())
    assert (report["encoder"], report["second_encoder"]) == (DEFAULT_ENCODER, SECOND_ENCODER)
    assert (report["prompt_encoder"], report["prompt_set"]) == ("pixels", "colour")
    assert 0 < report["scores"]["subject_ceiling"] <= 1
    assert (tmp_path / "sheet.png").is_file()
