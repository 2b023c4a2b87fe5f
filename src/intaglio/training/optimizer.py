"""Optimizer, learning rate and moving average: torch's, diffusers' and our own, chosen by the recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from intaglio.errors import UserError
from intaglio.layers.codes_tensor import CodesTensor
from intaglio.training.integer_adam import IntegerAdamW
from intaglio.training.recipe import Recipe


def make_optimizer(recipe: Recipe, parameters: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    if recipe.optimizer.name == "sgd":
        if _are_codes(parameters):
            raise UserError("integer_adapter has an optimizer of its own, of 8-bit moments; use optimizer adamw")
        return torch.optim.SGD(parameters, lr=learning_rate)
    betas = (recipe.optimizer.adam_beta1, recipe.optimizer.adam_beta2)
    options = {
        "lr": learning_rate,
        "betas": betas,
        "eps": recipe.optimizer.adam_epsilon,
        "weight_decay": recipe.optimizer.adam_weight_decay,
    }
    return make_adamw(parameters, fused=True, **options)  # one call for all, not a dozen for each


def make_adamw(parameters: list[nn.Parameter], *, fused: bool, **options: Any) -> torch.optim.Optimizer:
    """torch's, or that of parameters which are held as INT8 codes."""
    if _are_codes(parameters):
        return IntegerAdamW(parameters, **options)
    return torch.optim.AdamW(parameters, **options, fused=fused)


def _are_codes(parameters: list[nn.Parameter]) -> bool:
    return any(isinstance(p, CodesTensor) for p in parameters)


def learning_rate_factor(recipe: Recipe, step: int, steps: int) -> float:
    """The factor of the learning rate in optimizer step `step` of `steps`: a function of the step alone."""
    warmup = recipe.optimizer.lr_warmup_steps
    if recipe.optimizer.lr_scheduler != "constant" and step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    if recipe.optimizer.lr_scheduler == "linear":
        return 1 - done
    if recipe.optimizer.lr_scheduler == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1.0


class MovingAverage:
    """An exponential average of parameters, kept in float32; the average of the first steps is not biased to zero."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float):
        self.parameters, self.decay = list(parameters), decay
        self.averages = [p.detach().float().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, parameter in zip(self.averages, self.parameters, strict=True):
            average.lerp_(parameter.detach().float(), 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange parameters and averages; a second call undoes the first."""
        for average, parameter in zip(self.averages, self.parameters, strict=True):
            kept = parameter.detach().float().clone()
            parameter.copy_(average)
            average.copy_(kept)
