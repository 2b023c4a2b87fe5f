"""The command line: one file per command, loaded when it is called, so that `--help` is quick."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from intaglio.errors import UserError

COMMANDS = {
    "demo": "Learn a sample subject on the embedded base: the main job, in minutes.",
    "train": "Fine-tune a text-to-image model on your photos.",
    "generate": "Draw with one or more adapters on one base.",
    "diagnose": "Measure what integer training loses to rounding, layer by layer.",
    "quantize": "Quantize a pipeline's denoiser to 4 or 8 bits, once for all tasks.",
    "trace": "Record every operation of a training step, without weights.",
    "simulate": "Cost a training step on an accelerator.",
    "compare_hardware": "Methods, ranks and models on several accelerators.",
    "rtl": "Write the array of a hardware file as Verilog, with a testbench.",
    "bench": "Time and memory of a training step on this machine.",
    "explore": "Search accelerator designs for a Pareto front.",
    "bench_data": "Build the benchmark: subjects, families, objects, styles, from open packages.",
    "evaluate": "Score an adapter on a task of the benchmark.",
    "compare": "Methods over tasks and seeds: a table, plots, contact sheets.",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name.replace("_", "-") for name in COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = cmd_name.replace("-", "_")
        return import_module(f"intaglio.cli.{module}").command if module in COMMANDS else None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from intaglio.errors import did_you_mean

        name = args[0] if args else ""
        if name and self.get_command(ctx, name) is None and not name.startswith("-"):
            raise click.UsageError(f"no command {name!r}{did_you_mean(name, self.list_commands(ctx))}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name.replace("_", "-"), text) for name, text in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="intaglio")
def group() -> None:
    """Fine-tune diffusion models in integers.

    \b
    Examples:
      intaglio demo
      intaglio quantize runwayml/stable-diffusion-v1-5 --format int4 --out sd15-int4
      intaglio train --pretrained_model_name_or_path sd15-int4 --instance_data_dir photos \\
          --instance_prompt "a photo of sks dog" --output_dir out/dog
      intaglio generate --adapter out/dog --prompt "a photo of sks dog on the beach"
    """


def main() -> None:
    """Run the command line. What a user can mend is one message and exit code 2; a fault of ours is a traceback."""
    try:
        group(standalone_mode=False)
    except UserError as error:
        fail(str(error))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)


def fail(message: str) -> None:
    click.echo(click.style("error: ", fg="red", bold=True) + message, err=True)
    sys.exit(2)


def underscores(name: str) -> str:
    """Hyphens and underscores in flags are the same."""
    return name.replace("-", "_")


SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": underscores,
    "max_content_width": 110,
}
