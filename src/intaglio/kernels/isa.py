"""What of this machine the kernels may use: a set of features, found once, and narrowed by who asks.

Features do not lie on a line: AVX-VNNI comes without AVX-512, AMX beside it, CUDA beside all. A named set is what a
source may assume (`build.FLAGS_OF`), and what `INTAGLIO_KERNELS` and `using` may narrow to.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch

from intaglio.errors import UnknownChoice, UserError
from intaglio.kernels.library import load

_AVX2 = frozenset({"avx2", "fma"})
_AVX512_VL = _AVX2 | {"avx512f", "avx512vl", "avx512_vnni"}
_AVX512 = _AVX512_VL | {"avx512bw", "avx512dq", "avx512_vbmi"}
SETS: dict[str, frozenset[str]] = {
    "avx2": _AVX2,
    "avxvnni": _AVX2 | {"avx_vnni"},
    "avx512vl": _AVX512_VL,
    "avx512": _AVX512,
    "avx512bf16": _AVX512 | {"avx512_bf16"},
}
"""As in `native/features.h`; later ones are asked for first."""
PATHS = (*SETS, "torch", "reference")
"""What may be asked for: the compiled kernels with these features; torch alone; the definitions."""

_PROBES = {
    "cuda": torch.cuda.is_available,
    "triton": lambda: find_spec("triton") is not None,
}
"""Features that no processor has, by how they are found."""


@dataclass
class _State:
    """For the whole process: a backward pass runs on threads of its own."""

    path: str | None
    """What was asked for; None: whatever the machine has."""
    features: frozenset[str]
    """Of the processor, in use."""
    version: int = 0
    """Counts the changes: who remembers a choice compares it."""


@cache
def detected() -> frozenset[str]:
    """Features of the processor, as the compiled kernels find them; none where these are missing."""
    kernels, _ = load()
    if kernels is None:
        return frozenset()
    names, mask = kernels.intaglio_feature_names().decode().split(), kernels.intaglio_detected()
    return frozenset(name for bit, name in enumerate(names) if mask >> bit & 1)


@cache
def state() -> _State:
    """What is in use; at first what `INTAGLIO_KERNELS` says.

    Raises:
        UserError: it names no path, or one that is not there.
    """
    wanted = os.environ.get("INTAGLIO_KERNELS")
    if wanted is not None:
        _check("INTAGLIO_KERNELS", wanted)
    made = _State(wanted, frozenset())
    _put(made, wanted)
    return made


def _check(asker: str, path: str) -> None:
    if path not in PATHS:
        raise UnknownChoice(asker, path, PATHS)
    if SETS.get(path, frozenset()) <= detected():
        return
    _, reason = load()
    there = ", ".join(name for name, needs in SETS.items() if needs <= detected())
    raise UserError(f"{asker}={path}, but {reason or f'this processor has {there}'}")


def _put(into: _State, path: str | None, features: frozenset[str] | None = None) -> None:
    into.path, into.version = path, into.version + 1
    allowed = detected() if path is None else SETS.get(path, frozenset())
    into.features = allowed if features is None else features
    kernels, _ = load()
    if kernels is not None:
        names = kernels.intaglio_feature_names().decode().split()
        kernels.intaglio_use(sum(1 << bit for bit, name in enumerate(names) if name in into.features))


def use(path: str | None) -> None:
    """Compute by this path from now on, in the whole process and not while something runs; None: the best there is.

    Raises:
        UserError: no such path, or the kernels or the processor do not have it.
    """
    if path is not None:
        _check("kernels", path)
    _put(state(), path)


@contextmanager
def using(path: str | None) -> Iterator[None]:
    """`use` for a while: `with using("reference")` computes by the definitions alone."""
    before = (state().path, state().features)
    use(path)
    try:
        yield
    finally:
        _put(state(), *before)


@contextmanager
def only(features: frozenset[str]) -> Iterator[None]:
    """For a while, of the processor these features and no others; what it lacks stays out."""
    before = (state().path, state().features)
    _put(state(), None, features & detected())
    try:
        yield
    finally:
        _put(state(), *before)


def in_use() -> frozenset[str]:
    return state().features


def reference_alone() -> bool:
    return state().path == "reference"


def missing(needs: frozenset[str]) -> frozenset[str]:
    """What of these may not be used now."""
    return frozenset(name for name in needs - in_use() if not (name in _PROBES and _found(name)))


@cache
def _found(feature: str) -> bool:
    return _PROBES[feature]()


def why_missing(needs: frozenset[str]) -> str:
    """In words; empty where all may be used."""
    lacking = missing(needs)
    if not lacking:
        return ""
    if lacking <= detected():
        return f"left out by {state().path}"
    _, reason = load()
    return reason or f"no {', '.join(sorted(lacking - detected()))} here"


def best_set() -> str:
    """The last of `SETS` that may be used, else "torch" or "reference"."""
    if reference_alone():
        return "reference"
    return next((name for name in reversed(SETS) if SETS[name] <= in_use()), "torch")
