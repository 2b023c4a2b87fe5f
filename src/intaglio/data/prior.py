"""Class pictures for prior preservation: made by the base model itself before training, once, into a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from intaglio.data.images import SUFFIXES
from intaglio.files import write_atomic


def count_class_images(folder: Path | str) -> int:
    """Image files in `folder` (not in sub-folders); 0 when it does not exist yet."""
    folder = Path(folder)
    return sum(_is_image(path) for path in folder.iterdir()) if folder.is_dir() else 0


def missing_prior_images(folder: Path | str, wanted: int) -> int:
    """How many pictures must still be made to have `wanted`; the user's own pictures there count."""
    return max(0, wanted - count_class_images(folder))


def generate_prior_images(
    pipeline: Callable[..., Any], folder: Path | str, prompt: str, wanted: int, *, seed: int = 0, batch: int = 4
) -> list[Path]:
    """Fill `folder` up to `wanted` pictures of `prompt` and return the paths of the new ones.

    `pipeline` is called as diffusers pipelines are (`prompt=list, generator=list`) and returns `.images`. Picture `i`
    is drawn from its own generator of `(seed, i)`, so neither `batch` nor an interruption changes it. What is there is
    kept, and a file is renamed to its name only when it is whole.
    """
    from rich.progress import track  # here, so that counting needs neither rich nor torch

    from intaglio.data.noise import step_generator

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = _free_numbers(folder, missing_prior_images(folder, wanted))
    batches = [numbers[start : start + batch] for start in range(0, len(numbers), batch)]
    paths: list[Path] = []
    for batch_numbers in track(batches, description="Class pictures", disable=not batches):
        generators = [step_generator(seed, 0, number, "prior") for number in batch_numbers]
        images = pipeline(prompt=[prompt] * len(batch_numbers), generator=generators).images
        paths += [_save(image, folder, number) for image, number in zip(images, batch_numbers, strict=True)]
    return paths


def _free_numbers(folder: Path, count: int) -> list[int]:
    numbers: list[int] = []
    number = 0
    while len(numbers) < count:
        if not _path(folder, number).exists():
            numbers.append(number)
        number += 1
    return numbers


def _save(image: Any, folder: Path, number: int) -> Path:
    path = _path(folder, number)
    write_atomic(path, lambda temporary: image.save(temporary, format="PNG"))  # hidden until whole
    return path


def _path(folder: Path, number: int) -> Path:
    return folder / f"prior-{number:05d}.png"


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
