"""intaglio's own file: every tensor under the name of its parameter. It holds every method, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from intaglio.adapters.formats.tensors import read_metadata, read_tensors, write_tensors
from intaglio.adapters.header import ADAPTER_FILE, METADATA_KEY
from intaglio.errors import UserError
from intaglio.safetensors_header import SafetensorsHeader

if TYPE_CHECKING:
    from torch import Tensor

    from intaglio.adapters.state import AdapterState, Names

_PAIR = {"lora_a", "lora_b"}


class IntaglioFormat:
    name = "intaglio"
    file_name = ADAPTER_FILE
    summary = "intaglio's own: every method, exactly"

    def claims(self, path: Path, header: SafetensorsHeader) -> bool:
        return METADATA_KEY in header.metadata and not any(
            ".lora_" in k and k.endswith("weight") for k in header.tensors
        )

    def read(self, path: Path, names: Names | None) -> AdapterState:
        from intaglio.adapters.state import AdapterState, ComponentState, LowRank

        header, metadata = read_metadata(path)
        if header is None:
            raise UserError(f"{path}: no intaglio header; expected a file that intaglio saved")
        tensors = read_tensors(path)
        layers: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            layer, _, part = name.rpartition(".")
            layers.setdefault(layer, {})[part] = tensor
        low_rank = {}
        for layer, parts in layers.items():
            if parts.keys() == _PAIR and _fit(parts["lora_a"], parts["lora_b"]):
                alpha = header.options.get("alpha")
                alpha = float(alpha) if isinstance(alpha, int | float) else float(len(parts["lora_a"]))
                low_rank[layer] = LowRank(parts["lora_a"], parts["lora_b"], alpha)
        other = {n: t for n, t in tensors.items() if n.rpartition(".")[0] not in low_rank}
        return AdapterState({header.component: ComponentState(low_rank, other)}, header, metadata)

    def write(self, path: Path, state: AdapterState) -> None:
        if state.header is None or state.components.keys() - {state.header.component}:
            raise UserError(
                f"{path}: intaglio's own file holds the denoiser's adapter, with a header. Import the LoRA first: "
                "intaglio import FILE --base MODEL --out FOLDER"
            )
        part = state.components[state.header.component]
        tensors = dict(part.other)
        alpha = state.header.options.get("alpha")
        for layer, pair in part.low_rank.items():
            scaled = pair.scaled_to(1.0 if alpha is None else float(alpha) / pair.rank)
            tensors |= {f"{layer}.lora_a": scaled.down, f"{layer}.lora_b": scaled.up}
        write_tensors(path, tensors, state, {})


def _fit(down: Tensor, up: Tensor) -> bool:
    return down.ndim in (2, 4) and up.ndim == down.ndim and len(down) == up.shape[1] and len(down) > 0


FORMAT = IntaglioFormat()
