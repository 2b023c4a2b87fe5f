"""Go on from an adapter of any readable format: its update is what training starts from."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from intaglio.adapters.formats import find_format
from intaglio.adapters.header import find_file
from intaglio.adapters.state import AdapterState, ComponentState, LowRank, Names
from intaglio.errors import Problems, UserError
from intaglio.layers.low_rank import LowRankLayer
from intaglio.layers.names import adapter_layers
from intaglio.layers.quantize_model import base_format
from intaglio.methods.base import Method
from intaglio.methods.registry import build_method

if TYPE_CHECKING:
    from intaglio.adapters.handle import Adapter


def read_adapter(path: str | Path, model: nn.Module | None = None) -> AdapterState:
    """What an adapter file or folder holds, whoever wrote it.

    Args:
        model: the denoiser that it is for; formats whose keys do not tell the layers' names need it.

    Raises:
        UserError: nothing there that is an adapter.
    """
    file = find_file(Path(path))
    return find_format(file).read(file, None if model is None else Names.of(model))


def start_from(adapter: Adapter, path: str | Path) -> None:
    """Set an attached adapter to the update in `path`, exactly up to one rounding of float32, before it is trained on.

    A LoRA of a smaller rank is padded: the new rows of `lora_a` keep their random start, those of `lora_b` are zero, so
    they learn. Layers that the file does not have start at zero.

    Raises:
        WrongBase: scales that were trained on other integers.
        Problems: layers or shapes that do not fit; all of them at once.
    """
    state = read_adapter(path, adapter.model)
    if not state.is_low_rank or not all(isinstance(x, LowRankLayer) for x in adapter_layers(adapter.model).values()):
        adapter.load(path)
        return
    component = adapter.header().component
    part = state.components.get(component, ComponentState())
    layers = {n: layer for n, layer in adapter_layers(adapter.model).items() if isinstance(layer, LowRankLayer)}
    problems = [problem for name, pair in part.low_rank.items() if (problem := _problem(name, pair, layers.get(name)))]
    if not part.low_rank:
        problems.append(f"it has nothing for the {component}, only for {', '.join(state.components)}")
    if problems:
        shown = problems[:4] + ([f"and {len(problems) - 4} more"] if len(problems) > 4 else [])
        raise Problems(f"cannot go on from {path}", shown)
    left_out = [name for name in state.components if name != component]
    if left_out:
        what = ", ".join(left_out)
        warnings.warn(f"{path}: its weights for {what} are left out: only the {component} is trained", stacklevel=2)
    for name, pair in part.low_rank.items():
        _set(layers[name], pair)


def method_for(state: AdapterState, model: nn.Module) -> tuple[Method, Sequence[str]]:
    """The method and the layers that hold a LoRA of another program: LoRA, or QLoRA over a quantized base.

    Raises:
        UserError: it has nothing for this model.
    """
    component = Names.of(model).component
    part = state.components.get(component)
    if part is None or not part.low_rank:
        raise UserError(f"this LoRA has nothing for the {component}, only for {', '.join(state.components)}")
    rank = max(pair.rank for pair in part.low_rank.values())
    name = "lora" if base_format(model) is None else "qlora"
    return build_method(name, {"rank": rank}), list(part.low_rank)


def _problem(name: str, pair: LowRank, layer: LowRankLayer | None) -> str | None:
    if layer is None:
        return f"{name}: the file trains it, this adapter does not; add it to the targets"
    if pair.rank > layer.rank:
        return f"{name}: rank {pair.rank} in the file, {layer.rank} here; use --rank {pair.rank}"
    came = tuple(pair.down.shape[1:]), pair.up.shape[0]
    expected = tuple(layer.lora_a.shape[1:]), layer.lora_b.shape[0]
    if came != expected:
        return f"{name}: inputs and outputs {came}, expected {expected}; is it for another model?"
    return None


@torch.no_grad()
def _set(layer: LowRankLayer, pair: LowRank) -> None:
    scaled = pair.scaled_to(layer.scaling)
    down, up = layer.lora_a.detach().clone(), torch.zeros_like(layer.lora_b.detach().clone())
    down[: pair.rank] = scaled.down.to(down)
    up[:, : pair.rank] = scaled.up.to(up)
    layer.lora_a.copy_(down)
    layer.lora_b.copy_(up)
