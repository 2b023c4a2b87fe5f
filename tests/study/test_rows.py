"""Rows of this version and of the first one, which docs/results holds; their keys come out of the recipes still."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from intaglio.config import load_toml
from intaglio.errors import UserError
from intaglio.study.experiment import Experiment
from intaglio.study.rows import Checkpoint, Row, append_row, end_last_line, newest, parse_row, read_rows
from intaglio.study.runs import table_runs
from intaglio.study.tasks.manifest import Manifest, Task

ROOT = Path(__file__).parents[2]
TABLES = sorted(path.parent for path in (ROOT / "docs/results").glob("*/table.csv"))
ROW = Row(key="k", label="a", task="t", seed=1, checkpoints=(Checkpoint(2, {"subject": 0.5}),), recipe={"rank": 2})


@pytest.mark.parametrize("folder", TABLES, ids=lambda p: p.name)
def test_rows_of_the_first_version_are_read_and_stay_done(folder):
    """A run's key is that of its row in docs/results, so an old table is continued, not computed anew."""
    rows = read_rows(folder / "rows.jsonl")
    experiment = load_toml(ROOT / "recipes" / f"{folder.name}.toml", Experiment)
    names = tuple(dict.fromkeys(row.task for row in rows))
    task = {"kind": "photos", "licence": "", "train": "t", "learned": {}, "references": {}, "prompts": {}}
    manifest = Manifest(folder=Path("x"), tasks=tuple(Task.model_validate({"name": n, **task}) for n in names))
    tuned = folder / "tuned.json"
    chosen = json.loads(tuned.read_text()) if tuned.is_file() else {}
    runs = table_runs(experiment.model_copy(update={"tasks": names}), manifest, chosen)
    assert {run.key for run in runs} == {row.key for row in rows}
    trained = [row for row in rows if row.steps]
    assert all(row.recipe["train_batch_size"] == experiment.train_batch_size for row in trained)


def test_a_row_comes_back(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_row(path, ROW)
    assert read_rows(path) == [ROW]
    path.write_text(path.read_text() + '{"key": "cut o')
    assert read_rows(path) == [ROW]
    end_last_line(path)
    assert path.read_text() == ROW.line()
    assert read_rows(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: no row"),
        ('{"key": "k", "label": "a"}', "a row without task, seed, checkpoints"),
        ('{"version": 9}', "a row of version 9, but this intaglio reads up to 2; upgrade intaglio"),
    ],
)
def test_what_is_no_row(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(line + "\n" + ROW.line())
    with pytest.raises(UserError, match=message):
        read_rows(path)


def test_the_newest_of_equal_rows_counts():
    later = parse_row(json.loads(ROW.line()) | {"key": "other", "seconds": 3.0})
    assert newest([ROW, later]) == [later]
    another_seed = parse_row(json.loads(ROW.line()) | {"seed": 2})
    assert newest([ROW, another_seed]) == [ROW, another_seed]


@pytest.mark.parametrize("command", [["study", "table"]])
def test_a_table_of_old_rows_on_the_command_line(command):
    from intaglio.cli import group

    folder = ROOT / "docs/results/quick"
    done = CliRunner().invoke(group, [*command, str(folder), "--reference", "peqa-int4"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "| qlora-r2-int4 | int4 | 2 | 0.634 [0.552, 0.717] |" in done.output  # as docs/results/quick/table.md says
    assert "Less peqa-int4, pairs of equal task and seed:" in done.output
    with pytest.raises(UserError, match=r"unknown label 'peqa' \(did you mean 'peqa-int4'\?\)"):
        CliRunner().invoke(group, [*command, str(folder), "--reference", "peqa"], catch_exceptions=False)


def test_commands_of_the_first_version_lead_to_their_successors():
    import click

    from intaglio.cli import RENAMED, group

    context = click.Context(group)
    assert not {name.replace("_", "-") for name in RENAMED} & set(group.list_commands(context))
    compare, bench, data = (group.get_command(context, n) for n in ("compare", "bench", "bench-data"))
    study, speed = (group.get_command(context, n) for n in ("study", "speed"))
    assert (compare, bench, data) == (study.get_command(context, "run"), speed.get_command(context, "step"), study)
