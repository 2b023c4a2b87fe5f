"""Writing that loses nothing: a file or folder is complete under its name, or not there at all.

What is being written lies beside its place under a hidden name with `.tmp-` in it. A process that is killed leaves such
names behind; `sweep` takes them away at the next start.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_MARK = ".tmp-"
_OLD = ".old"


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, sync it, and rename it to `path`."""
    with _temporary_file(path, write) as temporary:
        temporary.replace(path)
    _sync(path.parent)


def write_text_atomic(path: Path, text: str) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomic(path, write)


def write_new(path: Path, write: Callable[[Path], None]) -> Path:
    """As `write_atomic`, but what is there stays: the file gets the first free name of `a.png`, `a-2.png`, `a-3.png`.

    Two processes that do so at once get two names.
    """
    with _temporary_file(path, write) as temporary:
        number = 1
        while True:
            free = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
            try:
                _move_to_new(temporary, free)
                break
            except FileExistsError:
                number += 1
    _sync(path.parent)
    return free


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends well.

    What stood at `path` before is deleted only after the new folder is complete.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}{_MARK}", dir=path.parent))
    try:
        yield temporary
        mask = _umask()
        for entry in [temporary, *temporary.rglob("*")]:
            entry.chmod((0o777 if entry.is_dir() else 0o666) & ~mask)
            if entry.is_file():
                _sync(entry)
        old = path.with_name(f".{path.name}{_OLD}")
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        _sync(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sweep(folder: Path) -> list[Path]:
    """Take away what killed processes left half-written in `folder`; returns what went.

    Nobody else may be writing there. A folder that was moved aside for a new one, which then never came, is put back.
    """
    gone = []
    for entry in sorted(folder.glob(".*")):
        if _MARK in entry.name or re.fullmatch(r"\.checkpoint-\d+\.\w{8}", entry.name):  # the second: of version 0.1.0
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)
            gone.append(entry)
        elif entry.name.endswith(_OLD) and entry.is_dir():
            place = folder / entry.name[1 : -len(_OLD)]
            if place.exists():
                shutil.rmtree(entry, ignore_errors=True)
                gone.append(entry)
            else:
                entry.rename(place)
    return gone


@contextmanager
def _temporary_file(path: Path, write: Callable[[Path], None]) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}{_MARK}", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        _sync(temporary)
        temporary.chmod(0o666 & ~_umask())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _move_to_new(temporary: Path, path: Path) -> None:
    """Rename, unless something is there: then FileExistsError."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: claim the name first
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        temporary.replace(path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    """To the disk, where the system lets this kind of entry be synced."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder on Windows
        return
    try:
        with contextlib.suppress(PermissionError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
