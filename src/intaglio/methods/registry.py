"""All methods by name."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from intaglio.errors import Problems, UnknownChoice, did_you_mean
from intaglio.methods.base import Method
from intaglio.methods.full import Full
from intaglio.methods.int8_lora import Int8Lora
from intaglio.methods.lora import Lora
from intaglio.methods.peqa import Peqa
from intaglio.methods.qlora import QLora
from intaglio.methods.scaled_lora import ScaledLora
from intaglio.methods.smooth_scales import SmoothScales
from intaglio.methods.tuneqdm import TuneQDM

METHODS: dict[str, type[Method]] = {
    m.name: m for m in (Full, Lora, QLora, Peqa, TuneQDM, ScaledLora, SmoothScales, Int8Lora)
}


def build_method(name: str, options: dict[str, Any]) -> Method:
    """The method called `name` with `options`; raises `Problems` for options that it does not have."""
    if name not in METHODS:
        raise UnknownChoice("method", name, METHODS)
    known = [f.name for f in fields(METHODS[name])]
    unknown = [k for k in options if k not in known]
    if unknown:
        has = f"it has {', '.join(known)}" if known else "it has no options"
        raise Problems(f"method {name}", [f"no option {k!r}{did_you_mean(k, known)}; {has}" for k in unknown])
    return METHODS[name](**options)


def method_options(method: Method) -> dict[str, Any]:
    """The dataclass as a table of TOML or JSON."""
    return asdict(method)
