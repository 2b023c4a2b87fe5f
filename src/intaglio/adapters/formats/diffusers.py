"""The file of diffusers' `save_lora_weights`: `unet.<layer>.lora_A.weight`, with PEFT's configuration in the metadata.

It is written with alpha = rank, folded into `lora_B`: other programs read these keys and look for no alpha.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from intaglio.adapters.formats.tensors import read_metadata, read_tensors, write_tensors
from intaglio.adapters.header import LORA_FILE
from intaglio.adapters.keys import collect, refuse_other_kinds, shorten, split_key
from intaglio.adapters.peft_config import DIFFUSERS_ENTRY, alpha_of, diffusers_config, make_config
from intaglio.errors import UserError
from intaglio.safetensors_header import SafetensorsHeader

if TYPE_CHECKING:
    from intaglio.adapters.state import AdapterState, LowRank, Names

COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")


class DiffusersFormat:
    name = "diffusers"
    file_name = LORA_FILE
    summary = "pipe.load_lora_weights of diffusers, and what reads its files"

    def claims(self, path: Path, header: SafetensorsHeader) -> bool:
        heads = {key.partition(".")[0] for key in header.tensors}
        return bool(heads) and heads <= set(COMPONENTS) and any(split_key(key) for key in header.tensors)

    def read(self, path: Path, names: Names | None) -> AdapterState:
        from intaglio.adapters.state import AdapterState, ComponentState

        header, metadata = read_metadata(path)
        tensors = read_tensors(path)
        refuse_other_kinds(path, tensors)
        config = diffusers_config(path, metadata.pop(DIFFUSERS_ENTRY, None))
        layers, rest = collect(path, tensors)
        if rest:
            raise UserError(f"{path}: {shorten(rest[0])!r} is no key of a LoRA, and {len(rest) - 1} more")
        has_alpha = {split[0] for key in tensors if (split := split_key(key)) and split[1] == "alpha"}
        components: dict[str, dict[str, LowRank]] = {}
        for full, pair in layers.items():
            component, _, layer = full.partition(".")
            layer = _modern(layer)
            if full not in has_alpha:
                pair = type(pair)(pair.down, pair.up, alpha_of(config.get(component, {}), layer, pair.rank))
            components.setdefault(component, {})[layer] = pair
        return AdapterState({name: ComponentState(part) for name, part in components.items()}, header, metadata)

    def write(self, path: Path, state: AdapterState) -> None:
        check_low_rank(self.name, path, state)
        tensors, config = {}, {}
        for component, part in state.folded().components.items():
            for layer, pair in part.low_rank.items():
                tensors[f"{component}.{layer}.lora_A.weight"] = pair.down
                tensors[f"{component}.{layer}.lora_B.weight"] = pair.up
            if part.low_rank:
                config |= {f"{component}.{key}": value for key, value in make_config(part.low_rank).items()}
        write_tensors(path, tensors, state, {DIFFUSERS_ENTRY: json.dumps(config)})


def check_low_rank(name: str, path: Path, state: AdapterState) -> None:
    """Refuse scales and whole weights: formats for LoRA have no place for them.

    Raises:
        UserError: the adapter holds something else than low-rank factors.
    """
    if not state.is_low_rank:
        method = "" if state.header is None else f" of method {state.header.method}"
        raise UserError(
            f"{path}: the format {name} holds low-rank factors alone, and this adapter{method} trains something else. "
            "Merge it into its base (intaglio merge), or keep intaglio's own file"
        )


def _modern(layer: str) -> str:
    """`attn1.processor.to_q` of old files -> `attn1.to_q`; their `to_out` is `to_out.0`."""
    if ".processor." not in layer:
        return layer
    layer = layer.replace(".processor.", ".")
    return layer + ".0" if layer.endswith(".to_out") else layer


FORMAT = DiffusersFormat()
