"""A parameter that is held as INT8 codes: one byte a number, and a power-of-two scale a rank.

To the rest of torch it is a float32 tensor; whatever computes with it gets `codes * scale`. Its gradient is a plain
float32 tensor. Writing to it (`copy_`, `round_to`) rounds to codes again, with the finest power of two that has a code
for every value of a rank: so the scale follows from the values, and a file of float values gives the same codes back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from intaglio.errors import UserError
from intaglio.kernels.codes import codes_by_column, codes_by_group

BITS = 8


class CodesTensor(Tensor):
    codes: Tensor
    """int8, of the tensor's shape."""
    scale: Tensor
    """float32, powers of two: (r, 1, ...) with `axis` 0, (1, r, 1, ...) with `axis` 1."""
    axis: int
    """Which axis is the rank."""

    @staticmethod
    def __new__(cls, codes: Tensor, scale: Tensor, axis: int) -> CodesTensor:
        return Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.float32, device=codes.device)

    def __init__(self, codes: Tensor, scale: Tensor, axis: int) -> None:
        self.codes, self.scale, self.axis = codes, scale, axis

    @classmethod
    def of(cls, values: Tensor, axis: int) -> CodesTensor:
        """The nearest codes of a float tensor (r, ...) or, with `axis` 1, (O, r, ...)."""
        return cls(*_codes(values, axis, None), axis)

    def values(self) -> Tensor:
        """float32, exact. A new tensor."""
        return self.codes * self.scale

    def round_to(self, values: Tensor, seed: Tensor | None) -> None:
        """Take over `values`: nearest, or stochastically with a seed (int64 scalar)."""
        codes, scale = _codes(values, self.axis, seed)
        self.codes.copy_(codes)
        self.scale.copy_(scale)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"CodesTensor({self.values()!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> CodesTensor:
        """Codes of its own; `clone` gives the values."""
        copied = CodesTensor(self.codes.clone(), self.scale.clone(), self.axis)
        if isinstance(self, nn.Parameter):
            copied = nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied  # pyright: ignore[reportReturnType]

    def __tensor_flatten__(self) -> tuple[list[str], int]:
        return ["codes", "scale"], self.axis

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], axis: int, size: Any, stride: Any) -> CodesTensor:
        return CodesTensor(inner["codes"], inner["scale"], axis)

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        first = args[0] if args else None
        if func is torch.ops.aten.detach.default and isinstance(first, CodesTensor):
            return CodesTensor(first.codes, first.scale, first.axis)
        if func is torch.ops.aten.copy_.default and isinstance(first, CodesTensor):
            first.round_to(_plain(args[1]).float(), None)
            return first
        _refuse_writing(func, args, kwargs or {})
        return func(*tree_map(_plain, args), **tree_map(_plain, kwargs or {}))


def _refuse_writing(func: Any, args: Any, kwargs: Any) -> None:
    """`func` gets the values, so what it wrote to them would be lost."""
    if not func._schema.is_mutable:
        return
    for place, argument in enumerate(func._schema.arguments):
        given = args[place] if place < len(args) else kwargs.get(argument.name)
        written = argument.alias_info is not None and argument.alias_info.is_write
        if written and any(isinstance(t, CodesTensor) for t in (given if isinstance(given, list | tuple) else [given])):
            raise UserError(
                f"{func} writes to a tensor that is held as INT8 codes, and what it wrote would be lost. Train pairs "
                "of integer_adapter with intaglio.training.integer_adam.IntegerAdamW, which rounds to codes; give "
                "other values with copy_"
            )


def _plain(value: Any) -> Any:
    return value.values() if isinstance(value, CodesTensor) else value


def _codes(values: Tensor, axis: int, seed: Tensor | None) -> tuple[Tensor, Tensor]:
    rank = values.shape[axis]
    shape = [1] * axis + [rank] + [1] * (values.ndim - axis - 1)
    if axis == 0:
        codes, scale = codes_by_group(values.reshape(rank, -1), BITS, rank, power_of_two=True, seed=seed)
    else:
        codes, scale = codes_by_column(values.reshape(-1, rank), BITS, power_of_two=True, seed=seed)
    return codes.view(values.shape), scale.reshape(shape)
