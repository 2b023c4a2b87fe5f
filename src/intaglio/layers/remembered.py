"""What a layer makes of its frozen tensors and keeps, and when that is still valid: one rule for all of it.

A compiled call holds addresses and views. It serves as long as the tensors that it was made from are the same objects,
at the same versions, at the same addresses: in-place writing changes the version, `tensor.data = other` the address,
loading and moving the object. A copy of a layer, or one that was pickled, remembers nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")
Tensors = tuple[Tensor | None, ...]

MOST_SHAPES = 64
"""Shapes that are remembered: more than the aspect ratios of a run."""


class Remembered(Generic[T]):
    """One value that was made from tensors and plain facts. Threads may share it: the worst is that two make it."""

    def __init__(self) -> None:
        self._known: tuple[Tensors, list[tuple[int, int]], object, T] | None = None

    def get(self, tensors: Tensors, facts: object, make: Callable[[], T]) -> T:
        """What `make` gave, if it was for these tensors as they are now and for equal `facts`; else made anew."""
        if torch.compiler.is_compiling():  # a compiler traces no addresses
            return make()
        known = self._known
        if known is not None and _same(tensors, known[0]) and known[2] == facts and _stamps(tensors) == known[1]:
            return known[3]
        stamps = _stamps(tensors)  # before: what is written while it is made must not be missed
        value = make()
        self._known = tensors, stamps, facts, value
        return value

    def forget(self) -> None:
        self._known = None

    def __reduce__(self) -> tuple[type[Remembered[T]], tuple[()]]:
        """Copied and pickled empty: a value holds addresses, and a copy makes its own."""
        return Remembered, ()


class ByShape(dict[Hashable, T]):
    """A few values by shape, of what is itself remembered. When there are too many, it starts again."""

    def keep(self, key: Hashable, value: T) -> T:
        if len(self) >= MOST_SHAPES:
            self.clear()
        self[key] = value
        return value


def _same(tensors: Tensors, others: Tensors) -> bool:
    return len(tensors) == len(others) and all(a is b for a, b in zip(tensors, others, strict=True))


def _stamps(tensors: Tensors) -> list[tuple[int, int]]:
    """Version and address of each. Neither is there for a subclass (a fake tensor), nor a version in inference mode."""
    return [
        (0 if t.is_inference() else t._version, t.data_ptr())
        for t in tensors
        if t is not None and (type(t) is Tensor or type(t) is nn.Parameter)
    ]
