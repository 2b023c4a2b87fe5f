"""Signals that end a run end it in order: as an exception, and never in the middle of what must be done whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP came. A KeyboardInterrupt, so that whatever cleans up after Ctrl-C does so here."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def raise_when_ended() -> None:
    """From now on SIGTERM and SIGHUP raise `Stopped`, as SIGINT raises KeyboardInterrupt; one that is ignored stays so.

    For the main thread of a command.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    for number in ENDING:
        if number != signal.SIGINT and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, stop)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """What an ending signal raises is raised after the block, not in it. Costs microseconds."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are raised in the main thread only
        return
    came: list[tuple[int, FrameType | None]] = []

    def later(number: int, frame: FrameType | None) -> None:
        came.append((number, frame))

    handlers: dict[int, Any] = {n: h for n in ENDING if callable(h := signal.getsignal(n)) and not isinstance(h, int)}
    for number in handlers:
        signal.signal(number, later)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in came[:1]:
            handlers[number](number, frame)
