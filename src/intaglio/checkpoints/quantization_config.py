"""What a quantized denoiser's config.json says under `quantization_config`."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict
from enum import Enum
from typing import Any

from diffusers.quantizers.quantization_config import QuantizationConfigMixin
from torch import nn

from intaglio.errors import Problems, UnknownChoice, UserError
from intaglio.families.registry import denoisers_of
from intaglio.layers.quantize_model import BaseRecord, set_base_record
from intaglio.layers.quantize_model import base_hash as hash_of
from intaglio.quantizers.base import Base
from intaglio.quantizers.formats import parse_format
from intaglio.quantizers.ranges import RANGE_SEARCHES, RangeSearch


class Method(str, Enum):  # noqa: UP042, diffusers reads `.value` and uses it as a string
    INTAGLIO = "intaglio"


class IntaglioConfig(QuantizationConfigMixin):
    """`quantization_config` of a denoiser.

    Args:
        format: "int8", "int4", "nf4", with "_g<size>" for groups and "_asym" for zero points.
        range_search: "absmax", "percentile" or "mse".
        keep_float: starts of the names of layers that stay float; None: those of the model's family.
        base_hash: `layers.quantize_model.base_hash` of the result. Found by quantizing; verified when loaded.

    Raises:
        Problems: a value that cannot be used, or a key that is not known; all of them at once.
    """

    def __init__(
        self,
        format: str = "int4",
        range_search: RangeSearch = "mse",
        keep_float: Sequence[str] | None = None,
        base_hash: str | None = None,
        quant_method: str = "intaglio",
        **unknown: Any,
    ):
        problems = [f"unknown key {key!r}; was it written by a newer intaglio?" for key in unknown]
        if quant_method != "intaglio":
            problems.append(f"quant_method {quant_method!r}; expected 'intaglio'")
        try:
            parse_format(format)
        except UserError as error:
            problems.append(str(error))
        if range_search not in RANGE_SEARCHES:
            problems.append(str(UnknownChoice("range_search", range_search, RANGE_SEARCHES)))
        names = () if keep_float is None else keep_float
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            problems.append(f"keep_float {keep_float!r}; expected a list of names, for example ['conv_in', 'conv_out']")
        if problems:
            raise Problems("quantization_config", problems)
        self.quant_method = Method.INTAGLIO  # pyright: ignore[reportAttributeAccessIssue]
        self.format = format
        self.keep_float = None if keep_float is None else tuple(keep_float)
        self.range_search: RangeSearch = range_search
        self.progress: Callable[[int, int], None] | None = None
        """Called with (weights quantized, weights in all) while a float checkpoint is read. Not saved."""
        self._base_hash = base_hash
        self._model: weakref.ref[nn.Module] | None = None

    @classmethod
    def of(cls, base: Base) -> IntaglioConfig:
        """That of a base; what it leaves open takes the defaults."""
        return cls(base.format or "int4", base.range_search, base.keep_float)

    @property
    def record(self) -> BaseRecord:
        return BaseRecord(self.format, self.range_search, self.keep_float or ())

    def settle(self, model: nn.Module) -> tuple[str, ...]:
        """What stays float in this model: from now on `keep_float` says it."""
        if self.keep_float is None:
            self.keep_float = denoisers_of(model).keep_float
        return self.keep_float

    @property
    def base_hash(self) -> str | None:
        """Of the model at hand, once there is one: merging changes the scales, and a saved folder must say so."""
        model = None if self._model is None else self._model()
        return self._base_hash if model is None else hash_of(model)

    def follow(self, model: nn.Module) -> None:
        """From now on this is the configuration of `model`."""
        self._model = weakref.ref(model)

    def to_dict(self) -> dict[str, Any]:
        """What config.json holds."""
        return {
            "quant_method": self.quant_method.value,
            "format": self.format,
            "range_search": self.range_search,
            "keep_float": None if self.keep_float is None else list(self.keep_float),
            "base_hash": self.base_hash,
        }

    def to_json_string(self, use_diff: bool = True) -> str:
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def __iter__(self) -> Generator[tuple[str, Any], Any, None]:
        yield from self.to_dict().items()

    def __getstate__(self) -> dict[str, Any]:
        """A copy follows no model, so it cannot know the hash of one."""
        return {**self.__dict__, "_base_hash": self._base_hash if self._model is None else None, "_model": None}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IntaglioConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __repr__(self) -> str:
        return f"IntaglioConfig({', '.join(f'{k}={v!r}' for k, v in asdict(self.record).items())})"


def describe(model: Any, config: IntaglioConfig) -> None:
    """Note that the diffusers `model` is quantized as `config` says, for `attach` and for saving."""
    config.settle(model)
    config.follow(model)
    set_base_record(model, config.record)
    model.register_to_config(quantization_config=config)


def forget(model: Any) -> None:
    """Undo `describe`: the model is float again, and is saved as such."""
    set_base_record(model, None)
    config = {k: v for k, v in model.config.items() if k not in ("quantization_config", "_pre_quantization_dtype")}
    model._internal_dict = type(model.config)(config)
