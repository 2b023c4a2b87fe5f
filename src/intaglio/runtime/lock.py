"""One writer for a folder: a file `.lock` with the number of the process that writes."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from intaglio.errors import UserError

LOCK = ".lock"


@contextmanager
def folder_lock(folder: Path, *, take: bool = True) -> Iterator[None]:
    """Hold `folder`, which is made if it is not there; `take=False` does nothing.

    A lock whose process has ended is taken over: a killed run keeps nobody out.

    Raises:
        UserError: another process, or another run of this one, writes there.
    """
    if not take:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    own = {"pid": os.getpid(), "started": psutil.Process().create_time(), "host": socket.gethostname()}
    while not _claim(path, own):
        owner = _read(path)
        if owner is None or _ended(owner):  # it ended in between, or was killed while it wrote
            path.unlink(missing_ok=True)
        else:
            raise UserError(
                f"{folder}: process {owner['pid']} on {owner['host']} writes there now; wait for it, or give another "
                f"folder. If no such process runs, delete {path}"
            )
    try:
        yield
    finally:
        if _read(path) == own:
            path.unlink(missing_ok=True)


def _claim(path: Path, own: dict[str, object]) -> bool:
    """The file appears with its content, or not at all."""
    temporary = path.with_name(f"{LOCK}.tmp-{os.getpid()}")
    temporary.write_text(json.dumps(own))
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        with open(descriptor, "w") as file:
            file.write(json.dumps(own))
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _read(path: Path) -> dict[str, object] | None:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text())
        if isinstance(found, dict) and {"pid", "started", "host"} <= set(found):
            return found
    return None


def _ended(owner: dict[str, object]) -> bool:
    """Whether the process is known to be gone. One of another machine cannot be asked."""
    if owner["host"] != socket.gethostname():
        return False
    try:
        started = psutil.Process(int(str(owner["pid"]))).create_time()
    except (psutil.NoSuchProcess, ValueError):
        return True
    except psutil.AccessDenied:
        return False
    return abs(started - float(str(owner["started"]))) > 1  # the number was given to another process
