"""The compiled library: loaded once, refused where it does not fit its sources."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from intaglio.kernels import build, structures

_AGAIN = "with a C++ compiler installed, run: python -m intaglio.kernels.build"


@cache
def load() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None and why not."""
    file = build.FOLDER / build.LIBRARY
    if not file.exists():
        return None, f"the compiled kernels are missing; {_AGAIN}"
    try:
        loaded = ctypes.CDLL(str(file))
    except OSError as error:
        return None, f"the compiled kernels do not load ({error}); {_AGAIN}"
    if not hasattr(loaded, "intaglio_sources"):
        return None, f"{file.name} is another library of that name; {_AGAIN}"
    for name in ("sources", "layout", "feature_names", "entries"):
        getattr(loaded, f"intaglio_{name}").restype = ctypes.c_char_p
    if loaded.intaglio_sources().decode() != build.sources_hash():
        return None, f"the compiled kernels are older than their sources; {_AGAIN}"
    wrong = structures.misplaced(loaded.intaglio_layout().decode())
    if wrong is not None:
        return None, f"the compiled kernels lay out their structures otherwise: {wrong}; {_AGAIN}"
    _declare(loaded)
    return loaded, "" if loaded.intaglio_detected() & 1 else "this processor has no AVX2"


def _declare(loaded: ctypes.CDLL) -> None:
    loaded.intaglio_detected.restype = ctypes.c_uint64
    loaded.intaglio_use.restype, loaded.intaglio_use.argtypes = ctypes.c_uint64, [ctypes.c_uint64]
    loaded.intaglio_int8_peak.restype, loaded.intaglio_int8_peak.argtypes = ctypes.c_int64, [ctypes.c_int64]
    for name in {entry.split()[0] for entry in loaded.intaglio_entries().decode().split(";") if entry}:
        getattr(loaded, name).errcheck = _served
    loaded.intaglio_layer.errcheck = _served


def _served(status: Any, function: Any, arguments: Any) -> Any:
    """A table without an entry for the features in use says so: a wrong guard is an error, no illegal instruction."""
    if status < 0:
        raise RuntimeError(f"{function.__name__}: no code for the features in use; the choice in Python was wrong")
    return status
