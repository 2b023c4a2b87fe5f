"""Rows to tables, with figures worked out by hand."""

import csv
import io

import pytest

from intaglio.study.rows import Checkpoint, Row
from intaglio.study.table import choose_settings, final_scores, markdown, seed_deviation, summarize, to_csv


def row(label, task, seed, *points, rate=0.1, **more):
    checkpoints = tuple(
        Checkpoint(step, {"subject": s, "prompt": p, "subject_real": 0.9, **more}) for step, s, p in points
    )
    return Row(
        key=f"{label}-{task}-{seed}-{rate}",
        label=label,
        task=task,
        seed=seed,
        learning_rate=rate,
        checkpoints=checkpoints,
        base="int4",
        prompt_set="colour",
        encoder="e",
        prompt_encoder="pixels",
        adapter_bytes=2048,
        peak_memory_bytes=3 << 20,
        seconds_per_step=0.5,
    )


ROWS = [
    row("a", "cat", 0, (1, 0.5, 1.0), (2, 0.7, 0.5)),
    row("a", "dog", 0, (1, 0.6, 1.0), (2, 0.6, 0.95)),
    row("b", "cat", 0, (1, 0.4, 0.9), (2, 0.6, 0.9)),
    row("b", "dog", 0, (1, 0.4, 0.9), (2, 0.5, 0.9)),
]


def test_matched_prompt_fidelity_takes_the_best_faithful_checkpoint():
    assert final_scores(ROWS[0], 0.9)["matched"] == 0.5  # the later one left the prompt
    assert final_scores(ROWS[1], 0.9)["matched"] == 0.6
    assert final_scores(ROWS[0], 0.4)["matched"] == 0.7
    assert final_scores(row("c", "cat", 0, (1, 0.2, 0.3), (2, 0.9, 0.1)), 0.9)["matched"] == 0.2  # the most faithful


def test_summary_and_paired_differences():
    a, b = summarize(ROWS, "b", 0.9)
    assert a["subject"].mean == pytest.approx(0.65)
    assert b["subject"].mean == pytest.approx(0.55)
    assert a["matched"].mean == pytest.approx(0.55)
    difference = a["subject_difference"]
    assert (difference.mean, difference.low, difference.high) == pytest.approx((0.1, 0.1, 0.1))
    assert "subject_difference" not in b
    assert a["subject_real"] == pytest.approx(0.9)


def test_markdown_names_the_encoders_and_the_real_scores():
    page = markdown("quick", ROWS, summarize(ROWS, "b", 0.9), "b", 0.9)
    assert "images by `e`, prompts by `pixels`" in page
    assert "Real images: subject_real 0.900." in page
    assert "| a | int4 | 2 | 0.650 [0.600, 0.700] | 0.550 [0.500, 0.600] |" in page
    assert "| 2.0 KiB | 3.0 MiB | 0.500 |" in page
    assert "Less b, pairs of equal task and seed:" in page


def test_the_deviation_over_seeds_is_pooled_within_tasks_and_methods():
    rows = [row("a", "cat", seed, (1, subject, 1.0)) for seed, subject in enumerate((0.1, 0.3))]
    rows += [row("b", "dog", seed, (1, subject, 1.0)) for seed, subject in enumerate((0.7, 0.8, 0.9))]
    assert seed_deviation(rows, "subject", 0.9) == pytest.approx(((0.02 + 0.02) / 3) ** 0.5)
    assert seed_deviation(rows[:1], "subject", 0.9) != seed_deviation(rows[:1], "subject", 0.9)  # NaN: one seed


def test_csv_has_three_columns_a_score():
    lines = list(csv.DictReader(io.StringIO(to_csv(summarize(ROWS, None, 0.9)))))
    assert [line["label"] for line in lines] == ["a", "b"]
    assert float(lines[0]["subject_low"]) <= float(lines[0]["subject"]) <= float(lines[0]["subject_high"])


def test_tuning_takes_the_best_subject_among_the_faithful():
    rows = [
        row("a", "cat", 0, (1, 0.5, 1.0), (2, 0.8, 0.2), rate=0.1),
        row("a", "cat", 0, (1, 0.6, 0.95), (2, 0.7, 0.92), rate=0.3),
        row("b", "cat", 0, (1, 0.9, 0.1), (2, 0.95, 0.2), rate=0.5),
    ]
    chosen = choose_settings(rows, 0.9)
    assert (chosen["a"]["learning_rate"], chosen["a"]["steps"]) == (0.3, 2)
    assert (chosen["b"]["learning_rate"], chosen["b"]["steps"]) == (0.5, 2)  # none is faithful: the most faithful
    last = choose_settings(rows, 0.9, choose_steps=False)
    assert (last["a"]["learning_rate"], last["a"]["steps"]) == (0.3, 2)


def test_of_equal_subjects_tuning_takes_the_one_that_drifts_least():
    tried = ((0.7, 0.1, 0.1), (0.705, 0.3, 0.3), (0.6, 0.5, 0.0))
    rows = [row("a", "cat", 0, (1, subject, 1.0), rate=rate, drift=drift) for subject, rate, drift in tried]
    assert choose_settings(rows, 0.9, tie=0.01)["a"]["learning_rate"] == 0.1
    assert choose_settings(rows, 0.9)["a"]["learning_rate"] == 0.3
