"""A folder of photos -> photos with captions. All that is wrong with the folder is found in one pass, without torch.

Layouts, detected in this order:

1. `metadata.jsonl` in the folder: one JSON object a line, `{"file_name": "a.jpg", "text": "a photo of sks dog"}`.
2. kohya: sub-folders called `10_sks dog` (repeats, then the concept, which is the caption of every photo that has no
   `.txt`). Several sub-folders are several subjects.
3. A bare folder. A photo `a.jpg` takes its caption from `a.txt`, otherwise the prompt given (DreamBooth).

A caption that a photo brings wins over the prompt.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from intaglio.data.images import SUFFIXES, find_fault, open_rgb
from intaglio.data.metadata import Rows, read_rows
from intaglio.errors import Problems, UserError

logger = logging.getLogger(__name__)

_KOHYA = re.compile(r"(\d+)_(.*\S.*)")
_NO_PHOTO = re.compile(r"(licen[sc]e|readme|notice|copying|thumbs\.db|desktop\.ini).*|.*\.md", re.I)
_NO_CAPTION = "no caption: write {txt!r} beside it, or give one prompt for all photos with --instance_prompt"


class Picture(Protocol):
    """What the caches and the training loop need of a photo, wherever it comes from."""

    @property
    def caption(self) -> str: ...

    @property
    def repeats(self) -> int: ...

    def open(self) -> Image.Image:
        """The picture, upright, mode RGB."""
        ...

    def digest(self) -> str:
        """SHA-256 of the encoded bytes, in hex."""
        ...


@dataclass(frozen=True)
class Photo:
    """An image file with its caption; `repeats` is how often an epoch shows it."""

    path: Path
    caption: str
    repeats: int = 1

    def open(self) -> Image.Image:
        return open_rgb(self.path)

    def digest(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def read_folder(
    folder: Path | str,
    *,
    prompt: str | None = None,
    image_column: str = "file_name",
    caption_column: str = "text",
    repeats: int = 1,
) -> list[Photo]:
    """Photos of `folder` in the order of their names, each really decoded once.

    `repeats` multiplies the repeats of kohya sub-folders. Raises `Problems` with one line for each mistake. Hidden
    files, licences and read-mes are passed over; other files that are not read are named in one warning.
    """
    folder = Path(folder)
    prompt = (prompt or "").strip() or None
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {what}; expected a folder of JPEG, PNG or WebP photos")
    if repeats < 1:
        raise UserError(f"--repeats {repeats}: must be at least 1")
    reader = _Reader(folder, prompt)
    if (folder / "metadata.jsonl").is_file():
        photos = reader.from_metadata(read_rows(folder / "metadata.jsonl", image_column, caption_column), repeats)
    elif concepts := _kohya_folders(folder):
        photos = reader.from_kohya(concepts, repeats)
    else:
        photos = reader.from_files(folder, prompt, repeats)
    reader.finish(photos)
    return photos


class _Reader:
    """One pass over a folder; gathers problems and what was left unread."""

    def __init__(self, folder: Path, prompt: str | None):
        self.folder, self.prompt = folder, prompt
        self.problems: list[str] = []
        self.unread: list[str] = []
        self.seen = 0  # image files met, good or not

    def from_metadata(self, rows: Rows, repeats: int) -> list[Photo]:
        self.problems += rows.problems
        photos: list[Photo] = []
        for path, row in rows.by_path.items():
            if not path.is_file():
                self.problems.append(f"metadata.jsonl line {row.line}: names {row.name!r}, which is not there")
            elif path.suffix.lower() not in SUFFIXES:
                self.problems.append(f"metadata.jsonl line {row.line}: {row.name!r} is no JPEG, PNG or WebP")
            elif caption := row.caption or self.prompt:
                self._add(photos, path, caption, repeats)
            else:
                self.seen += 1
                self.problems.append(
                    f"metadata.jsonl line {row.line}: no {rows.caption_column!r} for {row.name!r}; add one, name the "
                    f"column with --caption_column (this line has: {row.columns}), or give --instance_prompt"
                )
        for path in sorted(self.folder.rglob("*")):
            if path.suffix.lower() in SUFFIXES and not _passed_over(path, self.folder) and path not in rows.named:
                self.seen += 1
                self.problems.append(f"{self._short(path)}: no row of metadata.jsonl names it; add a row or move it")
        return sorted(photos, key=lambda photo: photo.path)

    def from_kohya(self, concepts: list[tuple[Path, int, str]], repeats: int) -> list[Photo]:
        photos: list[Photo] = []
        for path, times, concept in concepts:
            if times < 1:
                self.problems.append(f"{path.name}/: 0 repeats would never show it; begin the name with 1 or more")
            before = self.seen
            photos += self.from_files(path, concept, max(times, 1) * repeats)
            if self.seen == before:
                self.problems.append(f"{path.name}/: no JPEG, PNG or WebP in it; add photos or take it away")
        for path in _entries(self.folder):
            if path.is_file() and path.suffix.lower() in SUFFIXES:
                self.problems.append(f"{path.name}: lies beside the sub-folders; move it into one like '10_sks dog'")
            elif not any(path == concept for concept, _, _ in concepts):
                self.unread.append(path.name)
        return photos

    def from_files(self, folder: Path, fallback: str | None, repeats: int) -> list[Photo]:
        photos: list[Photo] = []
        entries = _entries(folder)
        images = [path for path in entries if path.is_file() and path.suffix.lower() in SUFFIXES]
        texts = {path.with_suffix(".txt") for path in images}
        for path in images:
            if caption := self._own_caption(path.with_suffix(".txt")) or fallback:
                self._add(photos, path, caption, repeats)
            else:
                self.seen += 1
                self.problems.append(f"{self._short(path)}: {_NO_CAPTION.format(txt=path.stem + '.txt')}")
        self.unread += [self._short(path) for path in entries if path not in images and path not in texts]
        return photos

    def finish(self, photos: list[Photo]) -> None:
        """Raise what was found; say what was not read."""
        if not self.seen and not self.problems:
            there = f" (it holds {', '.join(self.unread[:5])})" if self.unread else ""
            self.problems.append(
                f"no JPEG, PNG or WebP in it{there}. Sub-folders are read when they are called like '10_sks dog'"
            )
        if self.problems:
            raise Problems(str(self.folder), self.problems)
        if self.unread:
            logger.warning("%s: not read: %s (photos are JPEG, PNG or WebP)", self.folder, ", ".join(self.unread))
        if self.prompt and all(photo.caption != self.prompt for photo in photos):
            logger.warning("%s: every photo brings a caption; the prompt %r is not used", self.folder, self.prompt)

    def _add(self, photos: list[Photo], path: Path, caption: str, repeats: int) -> None:
        self.seen += 1
        if fault := find_fault(path):
            self.problems.append(f"{self._short(path)}: {fault}")
        else:
            photos.append(Photo(path, caption, repeats))

    def _own_caption(self, path: Path) -> str | None:
        if not path.is_file():
            return None
        try:
            caption = " ".join(path.read_text(encoding="utf-8-sig").split())
        except (OSError, UnicodeDecodeError) as error:
            self.problems.append(f"{self._short(path)}: not readable as UTF-8 text ({error})")
            return "unreadable"  # the photo itself is still checked in the same pass
        if not caption:
            self.problems.append(f"{self._short(path)}: the caption is empty; write one or delete the file")
            return "empty"
        return caption

    def _short(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def _kohya_folders(folder: Path) -> list[tuple[Path, int, str]]:
    found = [(path, _KOHYA.fullmatch(path.name)) for path in _entries(folder) if path.is_dir()]
    return [(path, int(match[1]), match[2].strip()) for path, match in found if match]


def _entries(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if not _passed_over(path, folder)]


def _passed_over(path: Path, folder: Path) -> bool:
    """Hidden files, licences, read-mes: neither photos nor worth a word. A photo of any such name is still a photo."""
    parts = path.relative_to(folder).parts
    if any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return True
    return path.suffix.lower() not in SUFFIXES and _NO_PHOTO.fullmatch(path.name) is not None
