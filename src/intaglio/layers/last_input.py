"""The input that was rounded last: query, key and value read the same one, which is rounded, and kept, once."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor


class LastInput:
    def __init__(self) -> None:
        self._entry: tuple[Any, ...] | None = None

    def codes(self, x: Tensor, key: tuple[object, ...]) -> tuple[Tensor, Tensor] | None:
        """Codes and scale, if they are those of `x` as it is, and something still holds them."""
        if self._entry is None:
            return None
        tensor, version, how, codes, scale = self._entry
        if tensor() is not x or version != x._version or how != key:
            return None
        found = codes(), scale()
        return None if found[0] is None or found[1] is None else found

    def keep(self, x: Tensor, key: tuple[object, ...], codes: Tensor, scale: Tensor) -> None:
        self._entry = weakref.ref(x), x._version, key, weakref.ref(codes), weakref.ref(scale)


last_input = LastInput()
