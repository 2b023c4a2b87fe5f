"""What a quantized layer shows as its `weight`: a copy that refuses to be written to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from intaglio.errors import CannotMerge

_WRITING = ("__setitem__", *(f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")))


class ShownWeight(Tensor):
    """A dequantized weight, made anew for each look. It reads like any tensor, and what is computed from it is plain.

    Writing to it would change nothing in the layer. PEFT's merge (`pipe.fuse_lora()`) does just that, through
    `layer.weight.data = ...`, and then leaves the adapter out: it would be lost without a word.
    """

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if _writes(func) and args and isinstance(args[0], cls):
            raise CannotMerge(
                "this weight is quantized, and an update cannot be folded into its codes: rounding would lose it. Keep "
                "the adapter beside it (do not fuse), or call dequantize() on the denoiser first"
            )
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def _writes(func: Callable[..., Any]) -> bool:
    name = getattr(func, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
    return in_place or name in _WRITING or func == Tensor.data.__set__  # pyright: ignore[reportAttributeAccessIssue]
