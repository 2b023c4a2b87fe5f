"""What an operation costs, for the trace: GEMMs and vector work, by the shapes of the arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

Arguments = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Convolution:
    """The geometry of a GEMM that is a convolution's; pairs are height and width."""

    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    in_spatial: tuple[int, int]
    out_spatial: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


@dataclass(frozen=True, slots=True)
class Gemm:
    """`batch` products `left_MK @ right_KN`. What is left open is found out from where the operands come from."""

    left: Tensor | None  # None: it never left the operator
    right: Tensor | None
    result: Tensor | None
    M: int
    N: int
    K: int
    batch: int = 1
    operation: str = "gemm"
    pass_name: str = ""
    roles: tuple[str, str] | None = None
    part: str = ""  # of an attention: what is appended to the layer's name
    convolution: Convolution | None = None

    def columns(self, length: int) -> Gemm:
        """The part that gives `length` of the N columns."""
        return replace(self, N=length)


@dataclass(frozen=True, slots=True)
class Vector:
    """Element-wise or row-wise work."""

    kind: str
    elements: int


def matmul(left: Tensor, right: Tensor, result: Tensor | None, **facts: Any) -> Gemm:
    """`left (..., M, K) @ right (..., K, N)`; what lies before the last two axes is the batch."""
    *batch, M, K = left.shape
    return Gemm(left, right, result, M, right.shape[-1], K, math.prod(batch), **facts)


def quantize_of(argument: str) -> Any:
    """The cost of rounding every element of an argument."""
    return lambda args, out: [Vector("quantize", args[argument].numel())]
