"""The names that `integer_gemms` of a method may hold: of old, each product of a layer was chosen by itself."""

from __future__ import annotations

from collections.abc import Sequence

from intaglio.errors import UnknownChoice

GEMMS = ("output", "grad_input")


def check_gemms(names: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple.

    Raises:
        UnknownChoice: one is not in `GEMMS`.
    """
    for name in names:
        if name not in GEMMS:
            raise UnknownChoice("integer GEMM", name, GEMMS)
    return tuple(names)
