"""`intaglio evaluate`: is the result good?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from intaglio.cli import SETTINGS
from intaglio.cli.console import make_console, quiet_libraries, two_columns
from intaglio.cli.options import given, options_of
from intaglio.study.draw import Drawing

EPILOG = """\b
Examples:
  intaglio evaluate --adapter out/dog --task dog --bench ~/dreambooth/dataset \\
      --encoder dino:facebook/dino-vits16 --prompt_encoder clip:openai/clip-vit-base-patch32
  intaglio evaluate --adapter out/archer --task elvish-archer --prompts terrain
  intaglio evaluate --task elvish-archer            (the base alone)

Writes scores.json and sheet.png. Scores of unlike encoders cannot be compared: each report names its own."""


@click.command(name="evaluate", context_settings=SETTINGS, epilog=EPILOG)
@click.option("--adapter", type=click.Path(path_type=Path), help="folder of a training run [the base alone]")
@click.option("--task", required=True, help="a task of the benchmark")
@click.option("--bench", type=click.Path(path_type=Path), default=Path("out/bench"), show_default=True)
@click.option("--prompts", help="colour, terrain, style or dreambooth [the task's first]")
@click.option("--pretrained_model_name_or_path", "model", help="[the one that the adapter was trained on]")
@click.option("--encoder", default="squeezenet1.1", show_default=True, help="of images")
@click.option("--second_encoder", default="efficientnet-lite0", show_default=True, help="a second opinion on subjects")
@click.option("--prompt_encoder", help="one that reads text: clip:MODEL or judge:FOLDER [pixel checks]")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="[the adapter's, /evaluation]")
@options_of(Drawing)
def command(
    adapter: Path | None,
    task: str,
    bench: Path,
    prompts: str | None,
    model: str | None,
    encoder: str,
    second_encoder: str,
    prompt_encoder: str | None,
    out: Path | None,
    **options: Any,
) -> None:
    """Score an adapter on a task with known truth: subject, identity, prompt, drift, diversity, memorisation."""
    from intaglio.config import build
    from intaglio.files import write_atomic, write_text_atomic
    from intaglio.study.evaluate import evaluate

    console = make_console()
    quiet_libraries()
    report = evaluate(
        adapter,
        task,
        bench=bench,
        model=model,
        prompt_set=prompts,
        drawing=build(Drawing, given(options), "evaluate"),
        encoder=encoder,
        second_encoder=second_encoder,
        prompt_encoder=prompt_encoder,
    )
    out = out or (Path("out/evaluation") if adapter is None else adapter / "evaluation")
    write_text_atomic(out / "scores.json", json.dumps(report.table(), indent=2) + "\n")
    sheet = report.sheet()
    write_atomic(out / "sheet.png", lambda temporary: sheet.save(temporary, format="PNG"))
    rows = [(name, f"{value:.3f}") for name, value in report.scores.items()]
    measured = [("images by", report.encoder), ("_second by", str(report.second_encoder))]
    measured += [("prompts by", report.prompt_encoder), ("written", str(out))]
    console.print(two_columns(f"{task}, prompts {report.prompt_set}", [*rows, *measured]))
