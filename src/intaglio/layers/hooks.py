"""What happens around the call of a frozen layer: offloading brings its tensors for that time, and takes them away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from intaglio.layers.remembered import Remembered, Tensors

T = TypeVar("T")
Train = Callable[[Tensor], Tensor]


def is_hooked(layer: nn.Module) -> bool:
    """Whether something happens around the layer's call."""
    own = layer.__dict__
    return bool(
        "forward" in own
        or own["_forward_pre_hooks"]
        or own["_forward_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
    )


def made_from(
    layer: nn.Module, remembered: Remembered[T], tensors: Tensors, facts: object, make: Callable[[Tensors], T]
) -> T:
    """What `make` makes of a frozen layer's tensors. Not remembered of those that came for one call alone: the backward
    pass holds them as they are now, wherever the layer's go."""
    if is_hooked(layer):
        return make(tuple(None if t is None else t.detach() for t in tensors))
    return remembered.get(tensors, facts, lambda: make(tensors))


class InPlaceOfProduct(TorchFunctionMode):
    """While a float layer is called: its own product becomes `train`."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, train: Train):
        super().__init__()
        self.layer, self.train = layer, train

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (F.linear, F.conv2d) and len(args) > 1 and args[1] is self.layer.weight:
            return self.train(args[0])
        return func(*args, **(kwargs or {}))
