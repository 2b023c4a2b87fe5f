"""`intaglio bench-data build`: the benchmark's pictures, from open packages."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

import click

from intaglio.cli import SETTINGS
from intaglio.cli.console import make_console

EPILOG = """\b
Examples:
  intaglio bench-data build
  intaglio bench-data build --only families --only styles

Needs npm, apt-get and dpkg-deb (Debian, Ubuntu), and pip install 'intaglio[bench]'. The art stays on your machine:
its licences (GPL-2+, CC BY-SA and others, in manifest.json) bind those who pass it on."""


@click.group(name="bench-data", context_settings=SETTINGS)
def command() -> None:
    """The benchmark's data."""


@command.command(name="build", context_settings=SETTINGS, epilog=EPILOG)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("out/bench"), show_default=True)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out/packages"),
    show_default=True,
    help="where packages are unpacked",
)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(["subjects", "families", "objects", "styles"]),
    help="a part; may be given several times [all]",
)
def build(out: Path, cache: Path, only: tuple[str, ...]) -> None:
    """Fetch, draw and list the benchmark's tasks: subjects, emoji families, objects from all around, styles."""
    from intaglio.study.build import PARTS, build_benchmark
    from intaglio.study.plan import load_plan

    console = make_console()
    manifest = build_benchmark(load_plan(), out, cache, _colours(), only or PARTS, console.print)
    kinds = sorted({task.kind for task in manifest.tasks})
    counts = ", ".join(f"{sum(t.kind == kind for t in manifest.tasks)} {kind}" for kind in kinds)
    console.print(f"{len(manifest.tasks)} tasks ({counts}): {out / 'manifest.json'}")


@command.command(name="judge", context_settings=SETTINGS)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("out/judge"), show_default=True)
@click.option(
    "--cache", type=click.Path(path_type=Path, file_okay=False), default=Path("out/packages"), show_default=True
)
@click.option("--drawings", type=click.IntRange(100), default=6000, show_default=True, help="pictures to learn from")
@click.option("--encoder", default="efficientnet-lite0", show_default=True, help="frozen encoder of pictures")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def judge(out: Path, cache: Path, drawings: int, encoder: str, seed: int) -> None:
    """Train a judge that reads prompts, for where no CLIP is at hand; then --prompt_encoder judge:OUT."""
    from intaglio.study.plan import load_plan
    from intaglio.study.train_judge import train_judge

    console = make_console()
    scores = train_judge(
        load_plan(), cache, out, _colours(), encoder_name=encoder, drawings=drawings, seed=seed, say=console.print
    )
    shown = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
    console.print(f"real pictures of held-out concepts: {shown}")
    console.print(f"written: {out}")


def _colours() -> dict[str, tuple[int, int, int]]:
    table = tomllib.loads((files("intaglio") / "assets" / "colours.toml").read_text(encoding="utf-8"))["backgrounds"]
    return {name: (rgb[0], rgb[1], rgb[2]) for name, rgb in table.items()}
