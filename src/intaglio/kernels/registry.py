"""Operations, what computes them, and the one place that chooses.

An `Op` has a schema (that of its fake), a cost for the trace, and a definition. An implementation is registered by the
device of its tensors, by the features that it needs and by the arguments that it takes; the one added last is asked
first, and the definition serves what no other takes. Anybody can add one:

>>> from intaglio import kernels
>>> kernels.op("quantize_rows").add(mine, "mine", device="cuda", needs={"triton"})

or name a function that does so as an entry point of the group `intaglio.kernels`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

from intaglio.kernels import binding, isa
from intaglio.kernels.cost import Arguments, Gemm, Vector
from intaglio.kernels.isa import using
from intaglio.kernels.operators import watched

__all__ = ["OPS", "Implementation", "Op", "op", "operations", "using"]

P = ParamSpec("P")
R = TypeVar("R")
Cost = Callable[[Arguments, Any], Iterable[Gemm | Vector]]


@dataclass(frozen=True)
class Implementation:
    """One way to compute an operation."""

    name: str
    function: Callable[..., Any]
    device: str = "cpu"
    needs: frozenset[str] = frozenset()
    """Features (`isa`)."""
    takes: Callable[..., bool] | None = None
    """Whether it takes these arguments of the operation; None: all."""
    condition: str = ""
    """What `takes` asks for, in words."""

    def alone(self, *args: Any) -> Any:
        """Compute with no feature in use but those that it needs: for tests."""
        with isa.only(self.needs):
            return self.function(*args)


class Op(Generic[P, R]):
    """A function of tensors, which returns new ones or writes to those named, and its custom operator."""

    def __init__(
        self,
        name: str,
        fake: Callable[P, R],
        *,
        cost: Cost,
        mutates: tuple[str, ...] = (),
        counts_constants: bool = False,
    ) -> None:
        """
        Args:
            fake: the results' shapes and dtypes; its annotations are the schema.
            cost: (arguments by name, result) -> GEMMs and vector work, in order. It sees shapes, not values.
            mutates: arguments that are written to.
            counts_constants: the trace counts it where all operands are weights too: it runs anew in every step.
        """
        self.name, self.fake, self.cost, self.counts_constants = name, fake, cost, counts_constants
        self.implementations: tuple[Implementation, ...] = ()
        self.definition: Callable[P, R] | None = None
        self._usable: dict[str, tuple[int, tuple[Implementation, ...]]] = {}
        schema = torch.library.infer_schema(fake, mutates_args=mutates)
        self.operator = torch.library.custom_op(f"intaglio::{name}", self.run, mutates_args=mutates, schema=schema)
        self.operator.register_fake(fake)
        OPS[f"intaglio::{name}"] = self

    def reference(self, function: Callable[P, R]) -> Callable[P, R]:
        """The decorator of its definition."""
        self.definition = function
        return function

    def add(
        self,
        function: Callable[..., R],
        name: str,
        *,
        device: str = "cpu",
        needs: Iterable[str] = (),
        takes: Callable[..., bool] | None = None,
        condition: str = "",
    ) -> None:
        """An implementation, asked before those that are there. One of the same name and device is replaced."""
        made = Implementation(name, function, device, frozenset(needs), takes, condition)
        others = (i for i in self.implementations if (i.name, i.device) != (name, device))
        self.implementations = (made, *others)
        self._usable = {}

    def native(
        self, function: Callable[P, R], *sets: str, takes: Callable[..., bool] | None = None, condition: str = ""
    ) -> None:
        """An implementation for each of these sets of features, the best first: `function` calls compiled code, whose
        table (`native/dispatch.h`) has an entry for each."""
        for name in reversed(sets):
            self.add(function, name, needs=isa.SETS[name], takes=takes, condition=condition)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        first = args[0]
        if (type(first) is Tensor or type(first) is torch.nn.Parameter) and first.is_cpu and not watched():
            return self.run(*args, **kwargs)
        return self.operator(*args, **kwargs)

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute, without a look at who watches."""
        return self.choose(*args)(*args, **kwargs)

    def choose(self, *args: Any) -> Callable[P, R]:
        """What computes on these arguments."""
        assert self.definition is not None, f"{self.name} has no definition"
        device = "cpu" if args[0].is_cpu else args[0].device.type
        for implementation in self.usable(device):
            takes = implementation.takes
            if (takes is None or takes(*args)) and _all_on(device, args):
                return implementation.function
        return self.definition

    def usable(self, device: str) -> tuple[Implementation, ...]:
        """Those whose features are in use, in the order in which they are asked."""
        found = self._usable.get(device)
        if found is None or found[0] != isa.state().version:
            found = isa.state().version, self._find_usable(device)
            self._usable[device] = found
        return found[1]

    def _find_usable(self, device: str) -> tuple[Implementation, ...]:
        _load_entry_points()
        binding.library()  # says once where it is missing
        candidates = () if isa.reference_alone() else self.implementations
        return tuple(i for i in candidates if i.device == device and not isa.missing(i.needs))

    def explain(self, device: str = "cpu") -> list[tuple[Implementation | None, str]]:
        """Every implementation for a device in the order asked, and why it is not used: "" where it is. None stands for
        the definition. What takes only what one before it takes is never asked, and not listed."""
        rows: list[tuple[Implementation | None, str]] = []
        served: set[Any] = set()
        for implementation in self.implementations:
            if implementation.device != device or implementation.takes in served:
                continue
            left_out = (
                "the definition was asked for" if isa.reference_alone() else isa.why_missing(implementation.needs)
            )
            rows.append((implementation, left_out))
            if not left_out:
                served.add(implementation.takes)
            if None in served:
                return rows
        return [*rows, (None, "")]


OPS: dict[str, Op[..., Any]] = {}
"""By their names in torch, "intaglio::quantize_rows": of those whose packages are imported."""


def _all_on(device: str, args: Iterable[Any]) -> bool:
    on_cpu = device == "cpu"
    return all((a.is_cpu if on_cpu else a.device.type == device) for a in args if isinstance(a, Tensor))


@cache
def _load_entry_points() -> None:
    for point in entry_points(group="intaglio.kernels"):
        point.load()()


def operations() -> dict[str, Op[..., Any]]:
    """Every operation by its name, "quantize_rows"."""
    package = import_module("intaglio.kernels")
    for module in pkgutil.iter_modules(package.__path__):
        if module.ispkg and module.name != "native":
            import_module(f"intaglio.kernels.{module.name}")
    _load_entry_points()
    return {name.partition("::")[2]: made for name, made in sorted(OPS.items())}


def op(name: str) -> Op[..., Any]:
    """The operation of this name.

    Raises:
        KeyError: there is none; the message names those that there are.
    """
    found = operations()
    if name not in found:
        raise KeyError(f"no operation {name!r}; there are {', '.join(found)}")
    return found[name]
