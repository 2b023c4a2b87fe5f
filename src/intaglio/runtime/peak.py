"""Peak memory of a block of code, in one place: resident on a CPU, allocated by torch on a GPU."""

from __future__ import annotations

import resource
import sys
import threading
from types import TracebackType

import psutil
import torch

from intaglio.runtime.memory import return_memory

_MAXRSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


class PeakMemory:
    """`with PeakMemory() as peak: ...`, then `peak.bytes` above what was in use when the block began.

    On a CPU it is the resident memory of this process, sampled by a thread every `interval_s`; a spike shorter than
    that can be missed. Where the block raises the process's own maximum (`ru_maxrss`, which the kernel keeps without
    gaps) that exact value is taken. What the process has freed before goes back to the system first (glibc), so that
    the figure does not depend on what ran before. On a GPU it is `torch.cuda.max_memory_allocated`, which is exact; its
    counter is reset at the start of the block. `peak.process_bytes` is the whole: with what was in use before.
    """

    def __init__(self, device: torch.device | str = "cpu", interval_s: float = 0.005):
        self.device = torch.device(device)
        self.bytes = self.process_bytes = 0
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._process = psutil.Process()

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._baseline_bytes = torch.cuda.memory_allocated(self.device)
            return self
        return_memory()
        self._baseline_bytes = self._peak_bytes = self._process.memory_info().rss
        self._maxrss_bytes = _maxrss_bytes()
        self._stop.clear()
        self._thread = threading.Thread(target=self._sample, daemon=True, name="peak-memory")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            peak_bytes = torch.cuda.max_memory_allocated(self.device)
        else:
            self._stop.set()
            self._thread.join()
            self._thread = None
            peak_bytes = max(self._peak_bytes, self._process.memory_info().rss)
            if (maxrss_bytes := _maxrss_bytes()) > self._maxrss_bytes:
                peak_bytes = max(peak_bytes, maxrss_bytes)
        self.bytes, self.process_bytes = max(0, peak_bytes - self._baseline_bytes), peak_bytes

    def _sample(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._peak_bytes = max(self._peak_bytes, self._process.memory_info().rss)


def _maxrss_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT_BYTES


def memory_bytes(device: torch.device) -> int:
    """In use now: resident on a CPU, allocated by torch on a GPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
