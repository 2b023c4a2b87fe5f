"""How the process asks the system for memory: large tensors in pages of their own, which go back when they are freed.

Nothing here happens at `import intaglio`. Our commands call `tune_allocator` first of all; from Python it is one call:

>>> import intaglio
>>> intaglio.tune_allocator()  # before torch's first tensor

By default glibc soon takes every block of up to 32 MiB from its heap, where a freed one leaves a hole between blocks
that live on. Mapped one by one they leave none, but each costs a page fault for every 4 KiB; with huge pages for every
2 MiB.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from functools import cache

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""torch's switch for tensors of 2 MiB and more; it is read once, at the first tensor of the process."""
_GLIBC = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

_MAPPED_BYTES = 4 * 2**20
"""Blocks from here on are mapped. torch asks for 2 MiB more than a tensor that is to lie in huge pages."""
_KEPT_BYTES = 2**30
"""The top of the heap stays in the process: it is wanted again in the next layer."""


@cache
def tune_allocator() -> bool:
    """Huge pages for large tensors, and large blocks mapped one by one; whether glibc was told so.

    Call it before torch's first tensor: torch reads its switch once. What the user has set in the environment stays;
    where they have tuned glibc, or refused huge pages, glibc is left alone.
    """
    os.environ.setdefault(HUGE_PAGES, "1")
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _GLIBC):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None or os.environ.get(HUGE_PAGES) != "1":
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES) and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))


def return_memory() -> None:
    """Give freed memory back to the system: to the allocator of glibc, freed is not yet returned."""
    import torch

    gc.collect()
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
