"""The configuration of a LoRA as PEFT writes it: rank and alpha for all layers, and patterns for those that differ."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intaglio.errors import UserError

if TYPE_CHECKING:
    from intaglio.adapters.state import LowRank

CONFIG_FILE = "adapter_config.json"
DIFFUSERS_ENTRY = "lora_adapter_metadata"
_MAX_CONFIG_BYTES = 10_000_000
_PLAIN = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


def check_config(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse what is no plain LoRA, and values of the wrong kind.

    Raises:
        UserError: the first thing that cannot be used, in one line.
    """
    kind = config.get("peft_type", "LORA")
    if str(kind).rpartition(".")[2] != "LORA":
        raise UserError(f"{path}: a PEFT adapter of type {str(kind)[:40]!r}; intaglio reads LORA alone")
    for name in ("use_dora", "lora_bias", "modules_to_save", "layer_replication", "alora_invocation_tokens"):
        if config.get(name):
            raise UserError(f"{path}: PEFT's {name} is set; intaglio reads plain LoRA. Merge it where it was trained")
    if config.get("bias") not in (None, "none"):
        raise UserError(f"{path}: PEFT's bias is {str(config['bias'])[:20]!r}; intaglio reads LoRA without biases")
    for name in ("r", "lora_alpha"):
        if config.get(name) is not None and not _positive(config[name]):
            raise UserError(f"{path}: PEFT's {name} is {str(config[name])[:40]!r}; expected a positive number")
    for name in ("rank_pattern", "alpha_pattern"):
        pattern = config.get(name) or {}
        if not isinstance(pattern, dict) or not all(_positive(value) for value in pattern.values()):
            raise UserError(f"{path}: PEFT's {name} is not a table of positive numbers")
        for key in pattern:
            if not set(_literal(key)) <= _PLAIN:
                raise UserError(
                    f"{path}: {name} has the regular expression {key[:60]!r}; only names of layers are read"
                )


def alpha_of(config: Mapping[str, Any], layer: str, rank: int) -> float:
    """The alpha of one layer, so that its scaling is alpha / rank; `rank` where the configuration says nothing."""
    pattern = config.get("alpha_pattern") or {}
    found = next((value for key, value in pattern.items() if _ends(layer, _literal(key))), config.get("lora_alpha"))
    if found is None:
        return float(rank)
    return float(found) * (math.sqrt(rank) if config.get("use_rslora") else 1.0)


def diffusers_config(path: Path, text: str | None) -> dict[str, dict[str, Any]]:
    """component -> its configuration, of the metadata entry that diffusers writes.

    Raises:
        UserError: no JSON, or no plain LoRA.
    """
    if text is None:
        return {}
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: its {DIFFUSERS_ENTRY} is no JSON ({error}); was the copy complete?") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: its {DIFFUSERS_ENTRY} is no table; was the copy complete?")
    config: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        component, _, name = key.partition(".")
        config.setdefault(component, {})[name] = value
    for part in config.values():
        check_config(path, part)
    return config


def peft_config(path: Path) -> dict[str, Any]:
    """The configuration beside PEFT's file `path`.

    Raises:
        UserError: none there, no JSON, or no plain LoRA.
    """
    file = path.with_name(CONFIG_FILE)
    if not file.is_file():
        raise UserError(f"{path}: no {CONFIG_FILE} beside it, so its alpha is not known; copy the whole folder")
    try:
        if file.stat().st_size > _MAX_CONFIG_BYTES:
            raise ValueError(f"{file.stat().st_size} bytes")
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: no readable JSON ({error}); was the copy complete?") from error
    if not isinstance(config, dict):
        raise UserError(f"{file}: a {type(config).__name__}, expected PEFT's configuration")
    check_config(file, config)
    return config


def read_configs(path: Path, metadata: Mapping[str, str]) -> Callable[[str, int], float]:
    """(a layer as the file spells it, its rank) -> alpha, by the configuration in the metadata or beside the file."""
    by_component = diffusers_config(path, metadata.get(DIFFUSERS_ENTRY))
    beside = peft_config(path) if path.with_name(CONFIG_FILE).is_file() else {}

    def alpha(name: str, rank: int) -> float:
        component, _, layer = name.partition(".")
        return alpha_of(by_component.get(component) or beside, layer, rank)

    return alpha


def make_config(layers: Mapping[str, LowRank]) -> dict[str, Any]:
    """What makes PEFT scale every one of `layers` by its alpha / rank."""
    rank = Counter(pair.rank for pair in layers.values()).most_common(1)[0][0]
    alpha = Counter(pair.alpha for pair in layers.values()).most_common(1)[0][0]
    return {
        "r": rank,
        "lora_alpha": _number(alpha),
        "target_modules": list(layers),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "rank_pattern": {name: pair.rank for name, pair in layers.items() if pair.rank != rank},
        "alpha_pattern": {name: _number(pair.alpha) for name, pair in layers.items() if pair.alpha != alpha},
    }


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value


def _positive(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0


def _literal(key: str) -> str:
    return key.removeprefix("^").removesuffix("$").replace("\\.", ".")


def _ends(layer: str, key: str) -> bool:
    return layer == key or layer.endswith("." + key)
