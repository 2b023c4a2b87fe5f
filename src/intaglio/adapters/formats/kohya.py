"""The file of kohya's scripts: `lora_unet_<layer>.lora_down.weight`, `.lora_up.weight` and `.alpha` for each layer,
with underscores for dots, and the names of the released models.

Sources: kohya-ss/sd-scripts `networks/lora.py` (keys, alpha as a tensor without dimensions, missing alpha = rank),
`networks/lora_flux.py`, `networks/lora_sd3.py`. Stable Diffusion 1 and 2 keep diffusers' names there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from intaglio.adapters.formats.diffusers import check_low_rank
from intaglio.adapters.formats.tensors import read_metadata, read_tensors, write_tensors
from intaglio.adapters.keys import collect, refuse_other_kinds, shorten, split_key
from intaglio.errors import UserError
from intaglio.safetensors_header import SafetensorsHeader

if TYPE_CHECKING:
    from torch import Tensor

    from intaglio.adapters.state import AdapterState, LowRank, Names

_PREFIXES = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lora_transformer_", "lycoris_")


class KohyaFormat:
    name = "kohya"
    file_name = "lora_kohya.safetensors"
    summary = "sd-scripts, WebUIs, ComfyUI; diffusers reads it too"

    def claims(self, path: Path, header: SafetensorsHeader) -> bool:
        return any(key.startswith(_PREFIXES) and split_key(key) for key in header.tensors)

    def read(self, path: Path, names: Names | None) -> AdapterState:
        return read_named(path, names)

    def write(self, path: Path, state: AdapterState) -> None:
        from intaglio.adapters.names import unet
        from intaglio.adapters.native import map_of, native_layers
        from intaglio.adapters.training_metadata import family_of, kohya_metadata

        check_low_rank(self.name, path, state)
        family, version, architecture = family_of(state) or ("", "", "")
        layers = {}
        for component, part in state.components.items():
            if component not in ("unet", "transformer"):
                continue
            if component == "transformer":
                native = native_layers(path, map_of(path, state, part.low_rank), part.low_rank)
            elif family == "sdxl":
                per_block = unet.count_layers_per_block(part.low_rank)
                native = {unet.to_native(n, max(2, per_block)) or n: pair for n, pair in part.low_rank.items()}
            else:
                native = part.low_rank
            layers |= {f"lora_unet_{name.replace('.', '_')}": pair for name, pair in native.items()}
        layers |= text_layers(path, state, two=family != "sd")
        write_tensors(path, kohya_tensors(layers), state, kohya_metadata(state, version, architecture))


def read_named(path: Path, names: Names | None) -> AdapterState:
    """A file of kohya's or ComfyUI's names."""
    from intaglio.adapters.native import components_of
    from intaglio.adapters.state import AdapterState

    header, metadata = read_metadata(path)
    tensors = read_tensors(path)
    refuse_other_kinds(path, tensors)
    layers, rest = collect(path, tensors)
    if rest:
        raise UserError(f"{path}: {shorten(rest[0])!r} is no key of a LoRA, and {len(rest) - 1} more")
    family = AdapterState({}, header).family or _family_of(metadata)
    return AdapterState(components_of(path, layers, names, family), header, metadata)


def kohya_tensors(layers: dict[str, LowRank]) -> dict[str, Tensor]:
    """Factors as they are, and an alpha for each: readers that find none take the scale for 1."""
    import torch

    tensors = {}
    for name, pair in layers.items():
        tensors[f"{name}.lora_down.weight"] = pair.down
        tensors[f"{name}.lora_up.weight"] = pair.up
        tensors[f"{name}.alpha"] = torch.tensor(float(pair.alpha))
    return tensors


def text_layers(path: Path, state: AdapterState, *, two: bool) -> dict[str, LowRank]:
    """The text encoders' layers by kohya's keys.

    Raises:
        UserError: an encoder that has no place there.
    """
    from intaglio.adapters.names import text

    layers = {}
    for component, part in state.components.items():
        for layer, pair in part.low_rank.items() if component.startswith("text_encoder") else ():
            key = text.key(component, layer, two=two)
            if key is None:
                raise UserError(f"{path}: this format has no place for {component}; save it for diffusers")
            layers[key] = pair
    return layers


def _family_of(metadata: dict[str, str]) -> str | None:
    """The family by what kohya's and Stability AI's metadata call the model."""
    from intaglio.adapters.names import name_maps

    said = {metadata.get("ss_base_model_version"), metadata.get("modelspec.architecture", "").removesuffix("/lora")}
    return next((m.family for m in name_maps().values() if {m.version, m.architecture} & said), None)


FORMAT = KohyaFormat()
