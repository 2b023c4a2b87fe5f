"""The keys that ComfyUI reads without conversion: `diffusion_model.<released name>.lora_down.weight` for transformers,
`lora_unet_<diffusers name>` for U-Nets, `.alpha` beside them.

Source: ComfyUI `comfy/lora.py` (model_lora_keys_unet, model_lora_keys_clip) and `comfy/weight_adapter/lora.py` (alpha /
rank; scale 1 without alpha). Which keys it looks for depends on the model; both spellings are among them for all.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from intaglio.adapters.formats.diffusers import check_low_rank
from intaglio.adapters.formats.kohya import kohya_tensors, read_named, text_layers
from intaglio.adapters.formats.tensors import write_tensors
from intaglio.adapters.keys import split_key
from intaglio.safetensors_header import SafetensorsHeader

if TYPE_CHECKING:
    from intaglio.adapters.state import AdapterState, Names

_PREFIXES = ("diffusion_model.", "model.diffusion_model.", "text_encoders.")


class ComfyUIFormat:
    name = "comfyui"
    file_name = "lora_comfyui.safetensors"
    summary = "ComfyUI, without conversion"

    def claims(self, path: Path, header: SafetensorsHeader) -> bool:
        return any(key.startswith(_PREFIXES) and split_key(key) for key in header.tensors)

    def read(self, path: Path, names: Names | None) -> AdapterState:
        return read_named(path, names)

    def write(self, path: Path, state: AdapterState) -> None:
        from intaglio.adapters.native import map_of, native_layers
        from intaglio.adapters.training_metadata import family_of, kohya_metadata

        check_low_rank(self.name, path, state)
        family, version, architecture = family_of(state) or ("", "", "")
        layers = {}
        for component, part in state.components.items():
            if component == "unet":
                layers |= {f"lora_unet_{name.replace('.', '_')}": pair for name, pair in part.low_rank.items()}
            elif component == "transformer":
                native = native_layers(path, map_of(path, state, part.low_rank), part.low_rank)
                layers |= {f"diffusion_model.{name}": pair for name, pair in native.items()}
        layers |= text_layers(path, state, two=family != "sd")
        write_tensors(path, kohya_tensors(layers), state, kohya_metadata(state, version, architecture))


FORMAT = ComfyUIFormat()
