"""The learning rate as a function of the optimizer step alone: a run that resumes needs no state of it.

The names are those of diffusers. `lr_warmup_steps` goes with every one of them, and no first step has a rate of zero.
"""

from __future__ import annotations

import math
from typing import Literal

ScheduleName = Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"]


def learning_rate_factor(
    name: ScheduleName, step: int, steps: int, *, warmup_steps: int = 0, num_cycles: int = 1, power: float = 1.0
) -> float:
    """The factor of the learning rate, 0 .. 1, in optimizer step `step` (from 0) of `steps`.

    Args:
        warmup_steps: the factor rises from 1 / (warmup_steps + 1) to 1 over so many steps.
        num_cycles: falls from 1 to 0 of "cosine_with_restarts".
        power: of "polynomial": (share of the steps that is left) ** power.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    match name:
        case "linear":
            return 1 - done
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        case "cosine_with_restarts":
            return 0.5 * (1 + math.cos(math.pi * (num_cycles * done % 1.0))) if done < 1 else 0.0
        case "polynomial":
            return max(0.0, 1 - done) ** power
        case _:
            return 1.0
