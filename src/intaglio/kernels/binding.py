"""Calls into the compiled library: whether it may compute on these tensors, and how they lie."""

from __future__ import annotations

import ctypes
import warnings
from functools import cache

import torch
from torch import Tensor

from intaglio.errors import Slower
from intaglio.kernels import isa
from intaglio.kernels.library import load

LEVELS = tuple(isa.SETS)
PATHS = isa.PATHS
TYPES = {torch.int32: 0, torch.float32: 1, torch.bfloat16: 2, torch.int8: 3}


def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where torch alone computes: that is said once, unless asked for.

    Raises:
        UserError: `INTAGLIO_KERNELS` names no path, or one that is not there.
    """
    if isa.SETS["avx2"] <= isa.in_use():
        return load()[0]
    if isa.state().path is None:
        _say_once(load()[1])
    return None


@cache
def _say_once(reason: str) -> None:
    if reason:
        warnings.warn(f"integer products run on torch alone, at half the speed: {reason}", Slower, stacklevel=4)


def path_in_use() -> str:
    """One of `PATHS`."""
    library()
    return isa.best_set()


def reaches(level: str) -> bool:
    """Whether compiled code that needs this set of features may run."""
    return library() is not None and isa.SETS[level] <= isa.in_use()


def set_level(name: str) -> None:
    """`isa.use`, by its old name."""
    isa.use(name)


def compiled(*tensors: Tensor | None) -> ctypes.CDLL | None:
    """The library, where these tensors are in its reach: on the CPU."""
    return library() if all(t is None or t.is_cpu for t in tensors) else None


def compiled_at(level: str, *tensors: Tensor | None) -> ctypes.CDLL | None:
    """The library, where it may use the features of `level` too and can read every tensor's dtype."""
    if not reaches(level) or any(t is not None and t.dtype not in TYPES for t in tensors):
        return None
    return compiled(*tensors)


def call(function: str, structure: ctypes.Structure) -> int:
    """Run a function of the library.

    Raises:
        RuntimeError: it has no code for the features in use.
    """
    kernels, reason = load()
    if kernels is None:
        raise RuntimeError(f"{function}: {reason}")
    return getattr(kernels, function)(ctypes.byref(structure))


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's data lies. The caller keeps the tensor alive."""
    return None if tensor is None else tensor.data_ptr()


def written(tensor: Tensor) -> None:
    """Tell autograd that a call has changed `tensor` in place: who saved it for a gradient must not use it."""
    if not tensor.is_inference():
        torch.autograd.graph.increment_version(tensor)
