"""Modules whose scales and trained offsets stay float32, whatever the model is cast to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn


class FixedDtype(nn.Module):
    """`.to(dtype)`, `.half()`, `.bfloat16()` move the named tensors between devices but never cast them.

    A scale that was rounded to bfloat16 and back is another scale: an adapter trained on it would no longer be exact.
    """

    fixed_dtype: ClassVar[tuple[str, ...]] = ()
    """Own parameters and buffers that are never cast; a `ParameterList` is named as a whole."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        fixed = {id(t) for name in self.fixed_dtype for t in _tensors(getattr(self, name))}

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if id(tensor) in fixed and moved.dtype != tensor.dtype:
                return tensor.to(moved.device)
            return moved

        if recurse:
            for child in self.children():
                # A list of parameters has no types of its own to guard: its tensors are guarded here.
                child._apply(move if isinstance(child, nn.ParameterList) else fn)
        return super()._apply(move, recurse=False)


def _tensors(value: Any) -> list[Tensor]:
    if value is None:
        return []
    return list(value) if isinstance(value, nn.ParameterList) else [value]
