"""A metric is declared once: measuring, tables and plots follow; one from outside the package needs no edit."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from intaglio.metrics import registry
from intaglio.metrics.registry import Metric, measure, metric, metrics
from intaglio.metrics.shown import Prompted, Shown
from intaglio.study.rows import Checkpoint, Row
from intaglio.study.table import columns, markdown, summarize


class Means:
    name = "means"

    def features(self, images):
        return torch.tensor([[sum(image.getpixel((0, 0))), 1.0] for image in images])


def prompted(*levels, **more):
    images = [Image.new("RGB", (4, 4), (level,) * 3) for level in levels]
    features = Means().features(images)
    return Prompted("a", images, features, images, features, features, Means(), **more)


@pytest.fixture
def no_toys():
    before = dict(registry.METRICS)
    yield
    registry.METRICS.clear()
    registry.METRICS.update(before)


def test_those_that_ship():
    names = [one.name for one in metrics()]
    assert names == [
        "subject", "identity", "background", "team_colour", "prompt", "style", "fd", "drift", "diversity",
        "memorisation",
    ]  # fmt: skip
    assert columns().scores[:3] == ("subject", "matched", "subject_second")
    assert {"subject_real", "subject_ceiling", "identity_ceiling", "fd_floor"} <= set(columns().real)
    assert columns().compared == (
        "subject", "matched", "subject_second", "identity", "identity_second", "fd", "drift"
    )  # fmt: skip


def test_what_does_not_apply_is_left_out():
    scores = measure(Shown((prompted(10, 200),), Means()))
    assert {"subject", "diversity", "memorisation", "fd"} <= set(scores)
    assert not {"identity", "style", "prompt", "drift", "background"} & set(scores)


def test_the_mean_is_over_the_prompts_that_have_the_score():
    one = Metric("x", "x", "higher", (0, 9), lambda shown: {1: 2.0, 2: 4.0, 3: None, 4: math.nan}[len(shown.images)])
    shown = Shown(tuple(prompted(*range(n)) for n in (1, 2, 3, 4)), Means())
    assert one.of(shown) == 3.0
    assert math.isnan(one.of(shown, real=True))


def test_a_score_out_of_its_range_is_a_fault():
    one = Metric("x", "x", "higher", (0, 1), lambda shown: 1.5)
    with pytest.raises(ValueError, match=r"metric x: 1.5 is not in its range \[0, 1\]"):
        one.of(Shown((prompted(1),), Means()))


def test_one_call_adds_a_metric_and_its_column(no_toys):
    @metric("level", title="mean level", better="lower", range=(0, 255), order=15, compared=True)
    def level(shown):
        return sum(image.getpixel((0, 0))[0] for image in shown.images) / len(shown.images)

    @level.real
    def real(shown):
        return 7.0

    scores = measure(Shown((prompted(10, 20), prompted(30)), Means()))
    assert (scores["level"], scores["level_real"]) == (22.5, 7.0)
    rows = [
        Row(key=n, label=n, task="t", seed=0, checkpoints=(Checkpoint(1, {"subject": 0.5, "level": v}),))
        for n, v in (("a", 3.0), ("b", 5.0))
    ]
    page = markdown("toy", rows, summarize(rows, "b", 0.9), "b", 0.9)
    assert "| method | base | rows | subject ↑ | level ↓ |" in page
    assert "| method | subject | level |" in page
    with pytest.raises(ValueError, match=r"named .subject. is registered already, by intaglio\.metrics"):
        metric("subject", title="x", better="lower", range=(0, 1))(lambda shown: 0.0)


def test_an_installed_package_brings_one_by_an_entry_point(tmp_path):
    (tmp_path / "toy_metric.py").write_text(
        "from intaglio.metrics.registry import metric\n\n\n"
        "@metric('toy', title='a toy', better='higher', range=(0, 1), order=1)\n"
        "def toy(shown):\n    return 0.25\n"
    )
    about = tmp_path / "toy-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[intaglio.metrics]\ntoy = toy_metric\n")
    code = "from intaglio.study.table import columns; print(columns().scores[0], columns().heading('toy'))"
    source = Path(registry.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(source)])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["toy", "toy", "↑"], done.stderr
