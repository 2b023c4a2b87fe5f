"""What a user sees: help is quick, wrong input is one message and exit code 2."""

from __future__ import annotations

import sys
import time
import warnings

import pytest
from click.testing import CliRunner

from fresh_interpreter import modules_after
from intaglio import cli
from intaglio.cli import COMMANDS
from intaglio.cli.console import make_console
from intaglio.cli.options import given, recipe_options
from intaglio.errors import Slower
from intaglio.training.recipe import flat_names, method_option_names


def run(arguments, capsys, monkeypatch):
    """Exit code and what was printed on standard error."""
    monkeypatch.setattr(sys, "argv", ["intaglio", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quantize", "embedded", "--format", "int3", "--out", "x"], "unknown format 'int3'"),
        (["quantize", "/no/such/folder", "--out", "x"], "no such file or folder"),
        (["train"], "give either instance_data_dir (a folder of photos) or dataset_name"),
        (["train", "--instance_data_dir", "/no/photos", "--instance_prompt", "x"], "/no/photos: no such folder"),
        (["train", "--instance-data-dir", "/no/photos", "--method", "tuneqmd"], "did you mean 'tuneqdm'?"),
        (["train", "--base", "int3", "--instance_data_dir", "/no/photos"], "unknown format 'int3'"),
        (["train", "/no/recipe.toml"], "no such file; expected a TOML configuration"),
        (["train", "--no_such_flag"], "no_such_flag"),
        (["generate", "--adapter", "/no/adapter", "--prompt", "x"], "/no/adapter: no such folder"),
        (["demo", "--method", "lora"], "the demo trains on a quantized base; lora does not"),
        (["tarin"], "no command 'tarin' (did you mean 'train'?)"),
    ],
)
def test_wrong_input_is_one_message_and_exit_code_2(arguments, message, capsys, monkeypatch):
    code, printed = run(arguments, capsys, monkeypatch)
    assert code == 2
    assert message in printed
    assert "Traceback" not in printed


def test_unknown_keys_of_a_recipe_are_errors_with_a_suggestion(tmp_path, capsys, monkeypatch):
    recipe = tmp_path / "r.toml"
    recipe.write_text('instance_data_dir = "x"\nlerning_rate = 1e-3\nresolution = "big"\n')
    code, printed = run(["train", str(recipe)], capsys, monkeypatch)
    assert code == 2
    assert "unknown key 'lerning_rate' (did you mean 'learning_rate'?)" in printed
    assert "resolution" in printed


def test_each_problem_says_what_it_belongs_to(tmp_path, capsys, monkeypatch):
    photos = tmp_path / "photos"
    photos.mkdir()
    code, printed = run(["train", "--instance_data_dir", str(photos), "--base", "int3"], capsys, monkeypatch)
    assert code == 2
    assert "2 problems" in printed
    assert f"{photos}: no JPEG, PNG or WebP" in printed


def test_our_warnings_are_a_line_without_code(capsys, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # put back at the end
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        make_console()
        warnings.warn("in float, since [x] is missing", Slower, stacklevel=1)
    assert capsys.readouterr().err == "warning: in float, since [x] is missing\n"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_with_examples(name):
    result = CliRunner().invoke(cli.group, [name, "--help"])
    assert result.exit_code == 0
    assert f"intaglio {name.replace('_', '-')}" in result.output or "Usage" in result.output


def test_help_is_quick_and_imports_no_torch():
    code = "import intaglio.cli as c\nfrom click.testing import CliRunner\n"
    code += "for a in ([], *([name] for name in c.COMMANDS)):\n"
    code += "    assert CliRunner().invoke(c.group, [*(n.replace('_', '-') for n in a), '--help']).exit_code == 0, a\n"
    started = time.perf_counter()
    loaded = modules_after(code)
    assert "intaglio.cli.train" in loaded
    assert not {"torch", "diffusers"} & loaded
    assert time.perf_counter() - started < 30  # the machine may be busy; what counts is that torch stays out


def test_every_field_of_a_recipe_is_an_option():
    import click

    @click.command()
    @recipe_options()
    def command(**options): ...

    names = {o.name for o in command.params}
    assert names >= {*flat_names(), *method_option_names(), "method", "integer_gemms"} - {"lora_alpha"}
    context = command.make_context("x", ["--rank", "3", "--targets", "to_q", "--targets", "to_k", "--center_crop"])
    assert given(context.params) == {"rank": 3, "targets": ("to_q", "to_k"), "center_crop": True}
