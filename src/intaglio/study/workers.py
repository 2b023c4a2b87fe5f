"""Processes that compute beside this one, and end when it does."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor

from intaglio.runtime.memory import tune_allocator


def worker_pool(jobs: int) -> ProcessPoolExecutor:
    """Worker processes that end with this one however it ends, by a signal too; left alone they would live on."""
    # A forked process would share torch's thread pool and hang.
    return ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)


def _begin() -> None:
    """As a command of ours begins; and end with the parent."""
    tune_allocator()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="watches the parent", daemon=True).start()
