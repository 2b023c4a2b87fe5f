"""PEFT's own pair of files: `adapter_model.safetensors` with keys `base_model.model.<layer>.lora_A.weight`, and
`adapter_config.json` with rank, alpha and the patterns of layers that differ.

PEFT knows one model, no pipeline: only the denoiser's part can be written.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intaglio.adapters.formats.diffusers import check_low_rank
from intaglio.adapters.formats.tensors import read_metadata, read_tensors, write_tensors
from intaglio.adapters.header import PEFT_FILE
from intaglio.adapters.keys import collect, refuse_other_kinds, shorten
from intaglio.adapters.peft_config import CONFIG_FILE, alpha_of, make_config, peft_config
from intaglio.errors import UserError
from intaglio.files import write_text_atomic
from intaglio.safetensors_header import SafetensorsHeader

if TYPE_CHECKING:
    from intaglio.adapters.state import AdapterState, Names

_PREFIX = "base_model.model."


class PeftFormat:
    name = "peft"
    file_name = PEFT_FILE
    summary = "peft.PeftModel and model.load_adapter, a folder of two files"

    def claims(self, path: Path, header: SafetensorsHeader) -> bool:
        return any(key.startswith(_PREFIX) for key in header.tensors)

    def read(self, path: Path, names: Names | None) -> AdapterState:
        from intaglio.adapters.state import AdapterState, ComponentState

        header, metadata = read_metadata(path)
        config = peft_config(path)
        tensors = read_tensors(path)
        refuse_other_kinds(path, tensors)
        layers, rest = collect(path, {key.removeprefix(_PREFIX): tensor for key, tensor in tensors.items()})
        if rest:
            raise UserError(f"{path}: {shorten(rest[0])!r} is no key of a LoRA, and {len(rest) - 1} more")
        low_rank = {n: type(p)(p.down, p.up, alpha_of(config, n, p.rank)) for n, p in layers.items()}
        component = names.component if names is not None else header.component if header else _guess(low_rank)
        return AdapterState({component: ComponentState(low_rank)}, header, metadata)

    def write(self, path: Path, state: AdapterState) -> None:
        check_low_rank(self.name, path, state)
        others = [name for name in state.components if name not in ("unet", "transformer")]
        denoiser = state.denoiser
        if others or denoiser is None:
            raise UserError(
                f"{path}: PEFT's file holds one model, and this LoRA has {', '.join(state.components)}; use --to "
                "diffusers, kohya or comfyui"
            )
        layers = denoiser[1].low_rank
        tensors = {}
        for layer, pair in layers.items():
            tensors[f"{_PREFIX}{layer}.lora_A.weight"] = pair.down
            tensors[f"{_PREFIX}{layer}.lora_B.weight"] = pair.up
        config = {"peft_type": "LORA", "task_type": None, "inference_mode": True, **make_config(layers)}
        # Tensors without configuration are refused by PEFT; a configuration without tensors is, too.
        write_tensors(path, tensors, state, {})
        write_text_atomic(path.with_name(CONFIG_FILE), json.dumps(config, indent=2, sort_keys=True) + "\n")


def _guess(layers: Any) -> str:
    unet = re.compile(r"(down_blocks|mid_block|up_blocks)\.")
    return "unet" if any(unet.match(name) for name in layers) else "transformer"


FORMAT = PeftFormat()
