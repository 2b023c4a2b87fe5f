"""Rows -> a table: means over tasks and seeds with intervals, paired differences, costs; tuned settings."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from intaglio.metrics.intervals import Interval, bootstrap, paired_difference
from intaglio.metrics.registry import metrics
from intaglio.study.rows import COSTS, Row

MATCHED = "matched"
"""The subject score at matched prompt fidelity."""
SECOND = "second"
"""Ending of what the second encoder measured."""


@dataclass(frozen=True)
class Columns:
    """What a table shows, as the metrics declare it."""

    scores: tuple[str, ...]
    real: tuple[str, ...]
    """Scores of real images."""
    compared: tuple[str, ...]
    """What is compared pair by pair."""
    better: Mapping[str, str]
    """Score -> "higher" or "lower"."""

    def heading(self, score: str) -> str:
        return f"{score} {'↑' if self.better[score] == 'higher' else '↓'}"


def columns() -> Columns:
    scores, compared, better = [], [], {}
    found = [one for one in metrics() if one.column]
    for one in found:
        names = [one.name, *([MATCHED] if one.name == "subject" else []), *([f"{one.name}_{SECOND}"] * one.second)]
        scores += names
        compared += names if one.compared else []
        better |= dict.fromkeys(names, one.better)
    real = [name for one in found for name in one.real_names]
    return Columns(tuple(scores), tuple(real), tuple(compared), better)


def final_scores(row: Row, matched_prompt: float) -> dict[str, float]:
    """The scores of the last checkpoint, and `matched`: the best subject score among the checkpoints whose prompt score
    is at least `matched_prompt`; where none is, the subject score of the checkpoint with the best prompt score."""
    scores = dict(row.scores)
    points = [p.scores for p in row.checkpoints if "prompt" in p.scores]
    if points:
        faithful = [p["subject"] for p in points if p["prompt"] >= matched_prompt]
        scores[MATCHED] = max(faithful) if faithful else max(points, key=lambda p: p["prompt"])["subject"]
    return scores


def by_task_and_seed(rows: Iterable[Row], score: str, matched_prompt: float) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        scores = final_scores(row, matched_prompt)
        if score in scores:
            found.setdefault(row.task, {})[row.seed] = scores[score]
    return found


def summarize(rows: Sequence[Row], reference: str | None, matched_prompt: float) -> list[dict[str, Any]]:
    """One record a label, in the order of the rows: an `Interval` a score, means of real scores and costs."""
    records = []
    shown = columns()
    labels = list(dict.fromkeys(row.label for row in rows))
    for label in labels:
        own = [row for row in rows if row.label == label]
        record: dict[str, Any] = {"label": label, "base": own[0].base or "float", "rows": len(own)}
        for score in shown.scores:
            values = by_task_and_seed(own, score, matched_prompt)
            if values:
                record[score] = bootstrap({task: list(seeds.values()) for task, seeds in values.items()})
        for score in shown.real:
            found = [s[score] for s in (final_scores(row, matched_prompt) for row in own) if score in s]
            if found:
                record[score] = fmean(found)
        for cost in COSTS:
            found = [getattr(row, cost) for row in own if getattr(row, cost) is not None]
            if found:
                record[cost] = fmean(found)
        if reference is not None and label != reference:
            others = [row for row in rows if row.label == reference]
            for score in shown.compared:
                ours = by_task_and_seed(own, score, matched_prompt)
                theirs = by_task_and_seed(others, score, matched_prompt)
                if ours and theirs:
                    record[f"{score}_difference"] = paired_difference(ours, theirs)
        records.append(record)
    return records


def seed_deviation(rows: Iterable[Row], score: str, matched_prompt: float) -> float:
    """Standard deviation of one run's score over seeds, pooled over methods and tasks; NaN with one seed."""
    squares, freedom = 0.0, 0
    for label in dict.fromkeys(row.label for row in rows):
        own = (row for row in rows if row.label == label)
        for seeds in by_task_and_seed(own, score, matched_prompt).values():
            mean = fmean(seeds.values())
            squares += sum((value - mean) ** 2 for value in seeds.values())
            freedom += len(seeds) - 1
    return math.sqrt(squares / freedom) if freedom else math.nan


def markdown(
    name: str,
    rows: Sequence[Row],
    records: Sequence[Mapping[str, Any]],
    reference: str | None,
    matched_prompt: float,
) -> str:
    """The table as a Markdown page: what was measured by what comes first."""
    first, known = rows[0], columns()
    tasks, seeds = sorted({r.task for r in rows}), sorted({r.seed for r in rows})
    shown = [s for s in known.scores if any(s in record for record in records)]
    real = {s: [r[s] for r in records if s in r] for s in known.real}
    second = f", `_{SECOND}` by `{first.second_encoder}`" if first.second_encoder else ""
    lines = [
        f"# {name}",
        "",
        f"Model `{first.model}`; {len(tasks)} tasks ({', '.join(tasks)}) x {len(seeds)} seeds; prompts "
        f"`{first.prompt_set}`; images by `{first.encoder}`{second}, prompts by `{first.prompt_encoder}`. "
        "Mean with 95 % bootstrap interval over tasks and seeds. `matched`: best subject score at matched prompt "
        "fidelity.",
        "",
        "Real images: " + ", ".join(f"{s} {fmean(v):.3f}" for s, v in real.items() if v) + ".",
        "",
        "| method | base | rows | " + " | ".join(map(known.heading, shown)) + " | adapter | peak memory | s a step |",
        "|---|---|---|" + "---|" * (len(shown) + 3),
    ]
    for record in records:
        cells = [str(record.get(s, "")) for s in shown]
        costs = [_bytes(record.get("adapter_bytes")), _bytes(record.get("peak_memory_bytes"))]
        step = f"{record['seconds_per_step']:.3f}" if "seconds_per_step" in record else ""
        lines.append(
            f"| {record['label']} | {record['base']} | {record['rows']} | " + " | ".join([*cells, *costs, step]) + " |"
        )
    compared = [r for r in records if "subject_difference" in r and not math.isnan(r["subject_difference"].mean)]
    if compared:
        shown = [s for s in known.compared if any(f"{s}_difference" in r for r in compared)]
        lines += [
            "",
            f"Less {reference}, pairs of equal task and seed:",
            "",
            "| method | " + " | ".join(shown) + " |",
            "|---|" + "---|" * len(shown),
        ]
        for r in compared:
            lines.append(f"| {r['label']} | " + " | ".join(str(r.get(f"{s}_difference", "")) for s in shown) + " |")
        if len(seeds) > 1:
            noise = [f"{seed_deviation(rows, s, matched_prompt):.3f}" for s in shown]
            lines.append("| deviation of one run over seeds | " + " | ".join(noise) + " |")
    return "\n".join(lines) + "\n"


def to_csv(records: Sequence[Mapping[str, Any]]) -> str:
    flat = [_flat(record) for record in records]
    names = list(dict.fromkeys(name for record in flat for name in record))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def choose_settings(
    rows: Sequence[Row], matched_prompt: float, *, choose_steps: bool = True, tie: float = 0.0
) -> dict[str, dict[str, Any]]:
    """Label -> the learning rate and the steps with the best mean subject score among those whose mean prompt score is
    at least `matched_prompt`; where none is, those with the best prompt score.

    Args:
        choose_steps: any checkpoint may win; False: only the last ones.
        tie: subject scores less than this below the best count as equal to it; of these the least drift wins.
    """
    points: dict[str, dict[tuple[float | None, int], list[Mapping[str, float]]]] = {}
    for row in rows:
        for point in row.checkpoints if choose_steps else row.checkpoints[-1:]:
            settings = (row.learning_rate, point.step)
            points.setdefault(row.label, {}).setdefault(settings, []).append(point.scores)
    return {label: _best_setting(candidates, matched_prompt, tie) for label, candidates in points.items()}


def _best_setting(
    candidates: Mapping[tuple[float | None, int], Sequence[Mapping[str, float]]], matched_prompt: float, tie: float
) -> dict[str, Any]:
    found = []
    for (rate, steps), scores in candidates.items():
        means = {name: fmean(s.get(name, default) for s in scores) for name, default in _TUNED_BY.items()}
        found.append({"learning_rate": rate, "steps": steps, **means})
    faithful = [one for one in found if one["prompt"] >= matched_prompt]
    if not faithful:
        return max(found, key=lambda one: one["prompt"])
    best = max(one["subject"] for one in faithful)
    return min(
        (one for one in faithful if one["subject"] >= best - tie), key=lambda one: (one["drift"], -one["subject"])
    )


_TUNED_BY = {"subject": math.nan, "prompt": 1.0, "drift": 0.0}
"""Scores that tuning looks at, and what stands for one that a task does not have."""


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Interval):
            flat |= {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high}
        else:
            flat[name] = value
    return flat


def _bytes(count: float | None) -> str:
    from intaglio.training.summary import human_bytes

    return "" if count is None else human_bytes(count)
