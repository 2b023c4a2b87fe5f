"""Optimizers by name, each a frozen table of its own options: `[optimizer] name = "prodigy"` of a recipe.

A further one is a subclass of `OptimizerOptions` under `@optimizer("its name")`, in this package or in another, which
names its module as an entry point of the group `intaglio.optimizers`. This file imports no torch: `--help` reads it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import Field

from intaglio.config import StrictModel, build
from intaglio.errors import UnknownChoice, UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

ENTRY_POINTS = "intaglio.optimizers"
OF_DIFFUSERS = {f"adam_{name}": name for name in ("beta1", "beta2", "epsilon", "weight_decay")}
"""Names of the training scripts of diffusers -> ours."""


class OptimizerOptions(StrictModel):
    """The options of one optimizer, and how it is made.

    What it does in a step may depend on nothing but the parameters, their gradients, `optimizer.state` and
    `optimizer.param_groups`: that is what a checkpoint keeps. One that has `train()` and `eval()`, as the schedule-free
    ones, is switched for validation and saving.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line for `--help`."""
    learning_rate: ClassVar[float | None] = None
    """Where the recipe names none; None is the method's."""

    @abstractmethod
    def make(self, parameters: Sequence[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        """The optimizer of float parameters.

        Raises:
            UserError: its library is not installed.
        """


OPTIMIZERS: dict[str, type[OptimizerOptions]] = {}
OptionsT = TypeVar("OptionsT", bound=type[OptimizerOptions])


def optimizer(name: str) -> Callable[[OptionsT], OptionsT]:
    """Enter a class of options under `name`; a name that is taken is refused."""

    def enter(options: OptionsT) -> OptionsT:
        if name in OPTIMIZERS:
            raise ValueError(f"optimizer {name!r} is {OPTIMIZERS[name].__module__}.{OPTIMIZERS[name].__name__} already")
        options.name = name
        OPTIMIZERS[name] = options
        return options

    return enter


def build_optimizer(name: str, options: Mapping[str, Any]) -> OptimizerOptions:
    """The options of the optimizer called `name`.

    Raises:
        UnknownChoice: no optimizer has that name.
        Problems: options that it does not have, or values that it does not take.
    """
    if name not in OPTIMIZERS:
        for entry in entry_points(group=ENTRY_POINTS):
            entry.load()
    if name not in OPTIMIZERS:
        raise UnknownChoice("optimizer", name, OPTIMIZERS)
    return build(OPTIMIZERS[name], dict(options), f"optimizer {name}")


def make_optimizer(
    options: OptimizerOptions, parameters: Sequence[nn.Parameter], learning_rate: float
) -> torch.optim.Optimizer:
    """The optimizer; parameters that are held as INT8 have AdamW of 8-bit moments, and no other yet.

    Raises:
        UserError: its library is not installed, or INT8 parameters under another one than adamw.
    """
    from intaglio.layers.codes_tensor import CodesTensor

    if any(isinstance(p, CodesTensor) for p in parameters) and not isinstance(options, AdamW):
        raise UserError(
            f"integer_adapter has an optimizer of its own, of 8-bit moments; use optimizer adamw, not {options.name}"
        )
    return options.make(parameters, learning_rate)


class _Adam(StrictModel):
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the mean of gradients")
    beta2: float = Field(0.999, ge=0, lt=1, description="decay of the mean of squared gradients")
    epsilon: float = Field(1e-8, gt=0, description="added to the root of the second mean")
    weight_decay: float = Field(1e-2, ge=0, description="decoupled weight decay")

    def adam(self) -> dict[str, Any]:
        return {"betas": (self.beta1, self.beta2), "eps": self.epsilon, "weight_decay": self.weight_decay}


@optimizer("adamw")
class AdamW(OptimizerOptions, _Adam):
    """AdamW (Loshchilov and Hutter, ICLR 2019): torch's fused one, or ours of 8-bit moments for INT8 parameters."""

    summary = "AdamW, the default"

    def make(self, parameters: Sequence[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        import torch

        from intaglio.layers.codes_tensor import CodesTensor
        from intaglio.training.integer_adam import IntegerAdamW

        if any(isinstance(p, CodesTensor) for p in parameters):
            return IntegerAdamW(parameters, lr=learning_rate, **self.adam())
        return torch.optim.AdamW(parameters, lr=learning_rate, **self.adam(), fused=True)  # one call for all parameters


@optimizer("sgd")
class SGD(OptimizerOptions):
    """Stochastic gradient descent, with momentum where it is asked for."""

    summary = "stochastic gradient descent"
    momentum: float = Field(0.0, ge=0, lt=1, description="share of the step before")
    nesterov: bool = Field(False, description="Nesterov's momentum")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty")

    def make(self, parameters: Sequence[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        import torch

        return torch.optim.SGD(parameters, lr=learning_rate, **self.model_dump())


@optimizer("adamw_8bit")
class AdamW8bit(OptimizerOptions, _Adam):
    """AdamW with moments in 8 bits, a scale for each 256 numbers (Dettmers et al., ICLR 2022), by bitsandbytes."""

    summary = "AdamW with 8-bit moments, by bitsandbytes"
    min_8bit_size: int = Field(4096, ge=1, description="a parameter with fewer numbers has moments in float32")

    def make(self, parameters: Sequence[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        library = _library("bitsandbytes", self.name)
        return library.optim.AdamW8bit(parameters, lr=learning_rate, **self.adam(), min_8bit_size=self.min_8bit_size)


@optimizer("prodigy")
class Prodigy(OptimizerOptions, _Adam):
    """Prodigy (Mishchenko and Defazio, ICML 2024): Adam that finds its step size; `learning_rate` is a factor of it."""

    summary = "Adam that finds its own step size; learning_rate is a factor of it, 1"
    learning_rate = 1.0
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    d0: float = Field(1e-6, gt=0, description="first estimate of the step size")
    d_coef: float = Field(1.0, gt=0, description="factor of the estimate")
    growth_rate: float = Field(float("inf"), gt=1, description="the estimate grows by this factor a step at most")
    use_bias_correction: bool = Field(False, description="Adam's correction of the first steps")
    safeguard_warmup: bool = Field(False, description="keep warm-up steps out of the estimate")

    def make(self, parameters: Sequence[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        own = self.model_dump(exclude=set(_Adam.model_fields))
        return _library("prodigyopt", self.name).Prodigy(parameters, lr=learning_rate, **self.adam(), **own)


@optimizer("schedule_free")
class ScheduleFree(OptimizerOptions, _Adam):
    """Schedule-free AdamW (Defazio et al., NeurIPS 2024): an average of the steps in place of a falling rate."""

    summary = "AdamW that needs no falling learning rate"
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    weight_lr_power: float = Field(2.0, ge=0, description="power of the learning rate in the average's weights")

    def make(self, parameters: Sequence[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        made = _library("schedulefree", self.name).AdamWScheduleFree(
            parameters, lr=learning_rate, **self.adam(), weight_lr_power=self.weight_lr_power
        )
        made.train()
        return made


def _library(package: str, name: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise UserError(f"optimizer {name} needs {package}: pip install 'intaglio[optimizers]' ({error})") from error
