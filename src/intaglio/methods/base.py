"""What a method is: the answer to "what is trained?", and to nothing else.

A method is a frozen dataclass. Its fields are its options: what TOML builds, what the command line lists, what the
adapter file stores. Its one function, `adapt`, turns a frozen layer into its trainable replacement. How the base lies
is a `Base`, how it is computed is `compute`; both are settled in `settle.py`. Finding layers, freezing, saving, loading
and merging are shared and belong to no method.

A method is one file in this folder, or outside of the package, with a class under `@method`. Files here import what
they build lazily, so that `--help` needs no torch.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, dataclass_transform

import pydantic.dataclasses
from pydantic import BeforeValidator, ConfigDict, Field, ValidationError

from intaglio.config import explain
from intaglio.errors import Problems

if TYPE_CHECKING:
    from torch import nn

    from intaglio.layers.timesteps import TimestepContext
    from intaglio.quantizers.formats import Format

ATTENTION_TARGETS = ("attention",)
"""The projections of attention, whose names a model's family knows: what LoRA trains by default."""

Rank = Annotated[int, Field(ge=1, le=16384)]
Alpha = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Names = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
"""Several names; a plain string stands for one."""


class Method(ABC):
    name: ClassVar[str]
    summary: ClassVar[str]
    """One line for `--help`."""
    needs_base: ClassVar[bool]
    """Whether the base is quantized."""
    default_targets: ClassVar[tuple[str, ...] | None]
    """What is trained by default: suffixes of names, "attention" for the family's, None for every Linear and Conv2d."""
    trains_rest: ClassVar[bool] = False
    """Whether norms, embeddings and the like are trained too."""
    default_base: ClassVar[str] = "int4"
    """Format that a float model is quantized to where none is asked for."""
    integer_only: ClassVar[bool] = False
    """Whether the method is integer arithmetic by definition, so that `compute="float"` makes no sense."""
    learning_rate: ClassVar[float]
    """A default that gives a good result with AdamW."""

    def check_base(self, format: Format) -> None:  # noqa: B027, most methods take every format
        """Raise `UserError` for a format that this method cannot train over."""

    def attention_in_integers(self) -> bool:
        """Whether attention's own two GEMMs, Q K^T and P V, run in INT8 in the forward pass."""
        return False

    @abstractmethod
    def adapt(self, layer: nn.Linear | nn.Conv2d, context: TimestepContext, name: str) -> nn.Module:
        """The trainable replacement of one frozen layer, called `name` in the model; equal to it at the start."""


METHODS: dict[str, type[Method]] = {}
"""All methods by name, filled in by `@method`. Read it from `methods.registry`, which imports them."""

MethodT = TypeVar("MethodT", bound=Method)
MOVED = ("base", "integer_gemms")
"""Options that methods had in version 0.1.0: they are arguments of `attach` now."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def method(name: str) -> Callable[[type[MethodT]], type[MethodT]]:
    """Make a class a method: a frozen, checked dataclass, registered under `name`.

    Raises:
        ValueError: another class has that name.
    """

    def register(cls: type[MethodT]) -> type[MethodT]:
        known = METHODS.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"a method named {name!r} is registered already: {known.__module__}.{known.__qualname__}")
        config = ConfigDict(validate_default=True)
        made: Any = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=config)(cls)
        made.name = name
        made.__init__ = _checked(made, made.__init__)
        METHODS[name] = made
        return made

    return register


def _checked(cls: type[Method], generated: Any) -> Any:
    def __init__(self: Any, **options: Any) -> None:  # noqa: N807
        moved = {key: options.pop(key) for key in MOVED if key in options}
        try:
            generated(self, **options)
        except ValidationError as error:
            raise Problems(f"method {cls.name}", [explain(e, cls) for e in error.errors()]) from None
        if moved:
            warnings.warn(
                f"{cls.__name__}({', '.join(moved)}): give base= and compute= to attach() instead; methods accept them "
                "until the next release",
                DeprecationWarning,
                stacklevel=2,
            )
        object.__setattr__(self, "moved", moved)

    return __init__


def moved_options(method: Method) -> dict[str, Any]:
    """What a caller of version 0.1.0 gave the method: `base` and `compute` as `attach` takes them now."""
    moved: dict[str, Any] = getattr(method, "moved", {})
    found: dict[str, Any] = {}
    if moved.get("base") is not None:
        found["base"] = moved["base"]
    if "integer_gemms" in moved:
        found["compute"] = compute_of(moved["integer_gemms"])
    return found


def compute_of(integer_gemms: Any) -> str:
    """`compute` for the option `integer_gemms` of version 0.1.0: a list of "output" and "grad_input", or "none"."""
    names = [integer_gemms] if isinstance(integer_gemms, str) else list(integer_gemms)
    unknown = [n for n in names if n not in ("output", "grad_input", "none")]
    if unknown:
        raise Problems("integer_gemms", [f"{n!r} is no GEMM; use compute = 'integer' or 'float'" for n in unknown])
    return "integer" if set(names) - {"none"} else "float"
