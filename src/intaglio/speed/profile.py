"""Where the time of one step goes, by torch's profiler: operations and autograd functions by their own CPU time.

Our kernels are called without torch's dispatcher, so their time is that of the autograd function that calls them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TOP = 15


def profile(step: Callable[[], None]) -> list[dict[str, Any]]:
    """The operations of a step that take the most time of their own, and the rest as one: `name`, `calls`, `seconds`.

    Times are of the CPU; with several threads the profiler counts a parallel operation by the thread that began it.
    """
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    with profiler(activities=[ProfilerActivity.CPU]) as recorded:
        step()
    found = [
        {"name": _plain(event.key), "calls": event.count, "seconds": event.self_cpu_time_total / 1e6}
        for event in recorded.key_averages()
    ]
    found.sort(key=lambda row: -row["seconds"])
    rest = found[TOP:]
    if rest:
        calls, seconds = sum(row["calls"] for row in rest), sum(row["seconds"] for row in rest)
        found[TOP:] = [{"name": f"{len(rest)} others", "calls": calls, "seconds": seconds}]
    return found


def _plain(key: str) -> str:
    """'autograd::engine::evaluate_function: MmBackward0' is the engine's own share around a node."""
    return key.replace("autograd::engine::evaluate_function: ", "engine: ")
