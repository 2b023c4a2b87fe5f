"""Results survive a file, times are the smallest, one renderer shows them all."""

import json

import pytest

from intaglio.errors import UnknownChoice, UserError
from intaglio.speed.harness import Results, Run, fastest_seconds, read_results
from intaglio.speed.render import STEPS, page, rate, rates
from intaglio.speed.suites import NAMES, columns_of, load

RUN = Run(
    "step-train", "One step", "intaglio speed step", "abc123", "a processor", 2, "avx2", {"torch": "2.0"}, "Notes."
)
ROWS = [
    {"name": "a", "title": "A", "seconds": [2.0, 1.0, 4.0], "peak_bytes": 4 << 20, "kernels": None},
    {"name": "b", "title": "B", "seconds": [1.0, 1.0], "peak_bytes": 1 << 20, "kernels": "avx2"},
]


def test_the_smallest_time_of_interleaved_calls():
    now = [0.0]
    order = []

    def call(name, durations):
        times = iter(durations)

        def timed():
            order.append(name)
            now[0] += next(times)

        return timed

    calls = [call("a", [5, 1, 3, 2]), call("b", [7, 8, 9, 6])]
    assert fastest_seconds(calls, repeats=2, inner=2, clock=lambda: now[0]) == [1, 6]
    assert order == ["a", "a", "b", "b"] * 2


def test_a_budget_that_is_spent_leaves_two_rounds():
    count = [0]

    def call():
        count[0] += 1

    fastest_seconds([call], repeats=50, inner=1, budget_s=0.0)
    assert count[0] == 2


def test_rows_come_back_from_the_file(tmp_path):
    path = tmp_path / "results.jsonl"
    results = Results(RUN, path)
    for row in ROWS:
        results.add(row)
        assert read_results(path).rows == results.rows  # complete after every row
    back = read_results(path)
    assert (back.run, back.rows) == (RUN, ROWS)
    assert [json.loads(line)["record"] for line in path.read_text().splitlines()] == ["run", "row", "row"]


@pytest.mark.parametrize("text", ["", "{}\n", '{"record": "run"}\n', "no json\n", '{"record": "row"}\n'])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "results.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match="not results of `intaglio speed`"):
        read_results(path)
    with pytest.raises(UserError, match="no such file"):
        read_results(tmp_path / "none.jsonl")


def test_a_page_says_where_it_was_measured_and_gives_ratios_to_the_first_row():
    results = Results(RUN)
    results.rows += ROWS
    text = page(results, STEPS)
    assert "`intaglio speed step`, commit abc123, a processor, 2 threads, our kernels: avx2, torch 2.0." in text
    assert "| A | 2.000 | 1.000, 4.000 | 4 | 1.00 | 1.00 |" in text
    assert "| B | 1.000 | 1.000, 1.000 | 1 | 0.50 | 0.25 |" in text


def test_a_profile_is_shown_below_the_table():
    results = Results(RUN)
    results.rows.append({**ROWS[0], "profile": [{"name": "aten::mm", "calls": 3, "seconds": 0.25}]})
    text = page(results, STEPS)
    assert "## A: where a step's time goes" in text
    assert "| aten::mm | 3 | 250.0 |" in text


def test_rates_are_empty_where_nothing_was_measured():
    row = {"operations": 2e9, "forward": 1.0, "backward": 0.5, "none": None}
    assert rates("x", "forward", "backward").cell(row, row) == "2 / 4"
    assert rates("x", "forward", "missing").cell(row, row) == ""
    assert rate("x", "forward", digits=1).cell(row, row) == "2.0"
    assert rate("x", "none").cell(row, row) == ""


def test_every_suite_has_a_name_and_columns():
    for name in NAMES:
        suite = load(name)
        assert suite.name == name
        assert columns_of(name) is suite.columns
        assert suite.columns[0].cell({"case": "x"}, {}) == "x"
    with pytest.raises(UnknownChoice, match=r"did you mean 'gemm'"):
        load("gem")
