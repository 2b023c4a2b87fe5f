"""The command line: one file per command, loaded when it is called, so that `--help` is quick."""

from __future__ import annotations

import errno
import keyword
import sys
from importlib import import_module
from typing import Any

import click

from intaglio.errors import UserError
from intaglio.runtime.memory import tune_allocator
from intaglio.runtime.signals import Stopped, raise_when_ended

COMMANDS = {
    "demo": "Learn a sample subject on the embedded base: the main job, in minutes.",
    "train": "Fine-tune a text-to-image model on your photos.",
    "generate": "Draw with one or more adapters on one base.",
    "diagnose": "Measure what integer training loses to rounding, layer by layer.",
    "quantize": "Quantize a pipeline's denoiser to 4 or 8 bits, once for all tasks.",
    "inspect": "Say what a file or folder is, and what can be done with it.",
    "export": "Write an adapter for diffusers, PEFT, kohya's scripts or ComfyUI.",
    "import": "Take a LoRA of another program as an adapter for one of your bases.",
    "trace": "Record every operation of a training step, without weights.",
    "simulate": "Cost a training step on an accelerator.",
    "compare_hardware": "Methods, ranks and models on several accelerators.",
    "speed": "Time and memory on this machine: a training step, an image, kernels.",
    "kernels": "Which code computes each integer operation on this machine, and why not a better one.",
    "rtl": "Write the array of a hardware file as Verilog, with a testbench.",
    "explore": "Search accelerator designs for a Pareto front.",
    "study": "Quality: methods over tasks and seeds; a table, plots, contact sheets.",
    "evaluate": "Score an adapter on a task of the study.",
}
RENAMED = {"bench": ("speed", "step"), "bench_data": ("study", None), "compare": ("study", "run")}
"""Commands of 0.1 -> the group, and the command in it, that do the same now. They are not listed; 0.3 drops them."""


_NAMES = ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EIO", "ESTALE", "EFBIG")
USER_ERRNOS = {getattr(errno, name) for name in _NAMES if hasattr(errno, name)}
"""A full disk, a quota, a folder that cannot be written, a mount that is gone: what the user can mend."""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name.replace("_", "-") for name in COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name, inner = cmd_name.replace("-", "_"), None
        if name in RENAMED:
            name, inner = RENAMED[name]
        if name not in COMMANDS:
            return None
        found = import_module(f"intaglio.cli.{name}_" if keyword.iskeyword(name) else f"intaglio.cli.{name}").command
        return found if inner is None else found.get_command(ctx, inner)

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
    tune_allocator()
    raise_when_ended()
    try:
        group(standalone_mode=False)
    except UserError as error:
        fail(str(error))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        cause = error.__cause__ if isinstance(error, click.Abort) else error
        click.echo(f"stopped {cause}".strip() if isinstance(cause, Stopped) else "stopped", err=True)
        sys.exit(cause.exit_code if isinstance(cause, Stopped) else 130)
    except OSError as error:
        if error.errno not in USER_ERRNOS:
            raise
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


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
