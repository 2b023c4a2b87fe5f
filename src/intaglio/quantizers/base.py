"""How a frozen base lies: a value of its own, apart from what is trained over it and from how it is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RangeSearch = Literal["absmax", "percentile", "mse"]


@dataclass(frozen=True)
class Base:
    """A quantized base; the same `Base` makes the same integers of the same float model.

    Args:
        format: name of a format, for example "int4"; None takes the model's own where it is quantized, else what the
            method wishes (`Method.default_base`).
        range_search: how the range of each channel or group is found: "absmax", "percentile" or "mse".
        keep_float: starts of names of layers that are not quantized; None takes those of the model family.
    """

    format: str | None = None
    range_search: RangeSearch = "mse"
    keep_float: tuple[str, ...] | None = None
