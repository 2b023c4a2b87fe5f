"""What an adapter file is, from its header alone: no tensor is read but alphas, and torch is not imported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from intaglio.adapters.formats import find_format
from intaglio.adapters.header import find_file, header_values
from intaglio.adapters.keys import shorten, split_key
from intaglio.adapters.peft_config import read_configs
from intaglio.adapters.training_metadata import clean, trigger_of
from intaglio.safetensors_header import SafetensorsHeader, read_number, read_safetensors_header


@dataclass(frozen=True)
class Description:
    path: Path
    format: str
    method: str
    """intaglio's method, or "LoRA" and "LoCon" of a file by another program."""
    layers: int
    parameters: int
    components: tuple[str, ...]
    ranks: str
    """The ranks, or - where there are none."""
    alphas: str
    trigger: str | None
    model: str | None
    """What the file says of the model that it was trained on."""
    base: str | None
    base_hash: str | None


def describe_adapter(path: Path) -> Description:
    """
    Raises:
        UserError: no adapter that is known, in one line.
    """
    file = find_file(path)
    format = find_format(file)
    header = read_safetensors_header(file)
    values = header_values(file, header.metadata) or {}
    pairs = {split[0]: e.shape[0] for k, e in header.tensors.items() if (split := split_key(k)) and split[1] == "down"}
    convolutions = any(len(e.shape) == 4 for k, e in header.tensors.items() if (s := split_key(k)) and s[1] == "down")
    base = values.get("base") or {}
    metadata = header.metadata
    return Description(
        path=file,
        format=format.name,
        method=values.get("method") or ("LoCon" if convolutions else "LoRA"),
        layers=len(values.get("layers") or pairs),
        parameters=sum(_elements(e.shape) for k, e in header.tensors.items() if not k.endswith(".alpha")),
        components=tuple(sorted({_component(name) for name in pairs} or {values.get("component", "?")})),
        ranks=_spread(list(pairs.values())),
        alphas=_spread(_alphas(file, header, pairs)),
        trigger=trigger_of(metadata),
        model=_model(metadata, values.get("model_class")),
        base=base.get("format"),
        base_hash=values.get("base_hash"),
    )


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _component(name: str) -> str:
    heads = {"lora_te2_": "text_encoder_2", "lora_te1_": "text_encoder", "lora_te_": "text_encoder"}
    for head, component in heads.items():
        if name.startswith(head):
            return component
    first = name.partition(".")[0]
    return first if first in ("unet", "transformer") or first.startswith("text_encoder") else "denoiser"


def _alphas(path: Path, header: SafetensorsHeader, pairs: dict[str, int]) -> list[float]:
    """One a layer: of its own tensor, else of PEFT's configuration, else the rank."""
    alpha_of = read_configs(path, header.metadata)
    found = []
    for name, rank in pairs.items():
        entry = header.tensors.get(f"{name}.alpha")
        number = None if entry is None else read_number(path, entry)
        found.append(alpha_of(name, rank) if number is None else number)
    return found


def _spread(numbers: list[float] | list[int]) -> str:
    if not numbers:
        return "-"
    counts = Counter(numbers).most_common()
    if len(counts) == 1:
        return f"{counts[0][0]:g}"
    return f"{min(numbers):g} to {max(numbers):g}, mostly {counts[0][0]:g}"


def _model(metadata: Mapping[str, str], model_class: str | None) -> str | None:
    for key in ("modelspec.architecture", "ss_base_model_version", "ss_sd_model_name"):
        value = metadata.get(key)
        if value:
            return shorten(clean(value))
    return model_class
