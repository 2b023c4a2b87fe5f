"""`--dataset_name`: a local folder, or a dataset of the Hub through the optional package `datasets`."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from intaglio.data.images import open_rgb
from intaglio.data.photos import Photo, read_folder
from intaglio.errors import Problems, UserError, did_you_mean


@dataclass(frozen=True)
class DatasetPhoto:
    """One row of a Hub dataset. The picture is fetched and decoded when it is opened, not before."""

    rows: Any  # datasets.Dataset whose image column is not decoded: rows[i][column] = {"bytes", "path"}
    index: int
    image_column: str
    caption: str
    repeats: int = 1

    def open(self) -> Image.Image:
        return open_rgb(io.BytesIO(self._encoded()))

    def digest(self) -> str:
        return hashlib.sha256(self._encoded()).hexdigest()

    def _encoded(self) -> bytes:
        record = self.rows[self.index][self.image_column]
        return record["bytes"] if record["bytes"] is not None else Path(record["path"]).read_bytes()


def read_dataset(
    name_or_folder: str,
    *,
    image_column: str | None = None,
    caption_column: str = "text",
    prompt: str | None = None,
    split: str = "train",
    repeats: int = 1,
) -> list[Photo] | list[DatasetPhoto]:
    """Pictures of a dataset. The image column is `file_name` for a folder and `image` for the Hub unless named."""
    if Path(name_or_folder).exists():
        column = image_column or "file_name"
        return read_folder(
            name_or_folder, prompt=prompt, image_column=column, caption_column=caption_column, repeats=repeats
        )
    rows = _load(name_or_folder, split)
    column = image_column or "image"
    rows = _checked(name_or_folder, rows, column, caption_column, prompt)
    captions = rows[caption_column] if caption_column in rows.column_names else [None] * len(rows)
    missing = [str(i) for i, caption in enumerate(captions) if not (caption or prompt)]
    if missing:
        raise Problems(name_or_folder, [f"row {i}: no {caption_column!r}; give --instance_prompt" for i in missing])
    return [DatasetPhoto(rows, i, column, caption or prompt or "", repeats) for i, caption in enumerate(captions)]


def _load(name: str, split: str) -> Any:
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"--dataset_name {name}: there is no such folder, and reading it from the Hub needs the package "
            "`datasets`: pip install 'intaglio[hub]'"
        ) from error
    try:
        return datasets.load_dataset(name, split=split)
    except Exception as error:  # network, missing repository, gated repository, broken files: many types
        raise UserError(
            f"--dataset_name {name}: no such folder, and the Hub gives no split {split!r} of it "
            f"({type(error).__name__}: {str(error).strip()[:200]}). Check the name, the network and HF_TOKEN, "
            "or download it and name the folder"
        ) from error


def _checked(name: str, rows: Any, image_column: str, caption_column: str, prompt: str | None) -> Any:
    """`rows` with an undecoded image column, or `Problems` with all that is wrong with its columns."""
    import datasets  # pyright: ignore[reportMissingImports]

    names = rows.column_names
    problems: list[str] = []
    if image_column not in names:
        problems.append(
            f"no column {image_column!r}{did_you_mean(image_column, names)}; it has {', '.join(names)} (--image_column)"
        )
    elif not isinstance(rows.features[image_column], datasets.Image):
        problems.append(f"column {image_column!r} holds {rows.features[image_column]}, not images (--image_column)")
    if caption_column not in names and not prompt:
        problems.append(
            f"no column {caption_column!r}{did_you_mean(caption_column, names)}; it has: {', '.join(names)} "
            "(--caption_column, or one --instance_prompt for all)"
        )
    if not len(rows):
        problems.append("it has no rows")
    if problems:
        raise Problems(name, problems)
    return rows.cast_column(image_column, datasets.Image(decode=False))
