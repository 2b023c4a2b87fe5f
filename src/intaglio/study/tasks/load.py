"""A folder -> its tasks: one that `study build` wrote, or a copy of google/dreambooth's `dataset`."""

from __future__ import annotations

import json
from pathlib import Path

from intaglio.config import build
from intaglio.errors import UserError
from intaglio.study.tasks.dreambooth import PROMPTS_FILE, read_dreambooth
from intaglio.study.tasks.manifest import FILE, Manifest


def load_manifest(folder: Path | str) -> Manifest:
    """The tasks of `folder`.

    Raises:
        UserError: it is neither a folder of `study build` nor DreamBooth's set.
    """
    folder = Path(folder)
    if (folder / PROMPTS_FILE).is_file():
        return read_dreambooth(folder)
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{folder}: no {FILE} in it. Build the tasks first: intaglio study build --out {folder}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}; build it again with intaglio study build") from error
    return build(Manifest, {**values, "folder": folder}, subject=str(path))
