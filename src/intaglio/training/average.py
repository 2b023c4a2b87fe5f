"""The moving average of what is trained, and parameters as they are saved and drawn with.

torch's `swa_utils.AveragedModel` would hold a copy of the whole model, begin with the weights after the first step, and
keep its average in their dtype.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class MovingAverage:
    """An exponential average of parameters, held in float32; the average of the first steps is not biased to zero."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float):
        self.parameters, self.decay = list(parameters), decay
        self.averages = [p.detach().float().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, parameter in zip(self.averages, self.parameters, strict=True):
            average.lerp_(parameter.detach().float(), 1 - decay)

    @torch.no_grad()
    def put(self) -> None:
        """Give the parameters the values of the average."""
        for average, parameter in zip(self.averages, self.parameters, strict=True):
            parameter.copy_(average)


@contextmanager
def weights_to_draw_with(
    parameters: list[nn.Parameter], optimizer: Any, average: MovingAverage | None
) -> Iterator[None]:
    """The parameters that the run would end with if it ended now; those of training return bit for bit."""
    switched = is_switched(optimizer)
    if average is None and not switched:
        yield
        return
    training = [p.detach().float().clone() for p in parameters]
    if switched:
        optimizer.eval()
    if average is not None:
        average.put()
    try:
        yield
    finally:
        if switched:
            optimizer.train()
        with torch.no_grad():
            for parameter, value in zip(parameters, training, strict=True):
                parameter.copy_(value)


def is_switched(optimizer: Any) -> bool:
    """Whether it trains other weights than those to draw with, as the schedule-free ones do."""
    return callable(getattr(optimizer, "eval", None)) and callable(getattr(optimizer, "train", None))
