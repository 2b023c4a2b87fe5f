"""Inputs of a denoiser's layers while it draws: what a reconstruction of its weights is measured on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from intaglio.families.registry import denoisers_of
from intaglio.layers.frozen import with_weight
from intaglio.layers.geometry import geometry_of
from intaglio.layers.names import replace
from intaglio.layers.patches import channels_last_rows, unfold
from intaglio.layers.quantize_model import BaseRecord, layers_to_quantize, set_base_record
from intaglio.quantizers.formats import parse_format
from intaglio.quantizers.ranges import RangeSearch
from intaglio.quantizers.reconstruction import quantize_to_outputs


@torch.no_grad()
def input_grams(
    denoiser: nn.Module, names: Sequence[str], draw: Callable[[], object], *, rows: int = 256, seed: int = 0
) -> dict[str, Tensor]:
    """`X^T X` (K, K) of each named layer, over all calls of the denoiser while `draw` runs, so over all its timesteps.

    Args:
        names: layers without groups.
        rows: of each call, drawn at random; fewer than K make the matrix singular, which the damping covers.
    """
    grams: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(seed)

    def watch(name: str) -> Callable[..., None]:
        def before(module: nn.Linear | nn.Conv2d, inputs: tuple[Tensor, ...]) -> None:
            geometry = geometry_of(module)
            flat = channels_last_rows(inputs[0], geometry)
            patches = unfold(flat.contiguous(), inputs[0].shape, geometry)
            picked = torch.randperm(len(patches), generator=generator)[:rows]
            x = patches[picked.to(patches.device)].float()
            grams[name] = grams[name].addmm_(x.T, x) if name in grams else x.T @ x

        return before

    handles = [denoiser.get_submodule(n).register_forward_pre_hook(watch(n)) for n in names]
    try:
        draw()
    finally:
        for handle in handles:
            handle.remove()
    return grams


@torch.no_grad()
def quantize_by_outputs(
    denoiser: nn.Module,
    grams: dict[str, Tensor],
    format: str,
    search: RangeSearch = "mse",
    keep_float: Sequence[str] | None = None,
) -> None:
    """Quantize a float denoiser in place, each layer for its own inputs. All layers that are quantized need a Gram
    matrix. The base differs from the one that `range_search` alone gives, and so does its hash: ship its folder."""
    keep_float = denoisers_of(denoiser).keep_float if keep_float is None else keep_float
    record = BaseRecord(parse_format(format).name, search, tuple(keep_float))
    for name in layers_to_quantize(denoiser, keep_float):
        layer: nn.Linear | nn.Conv2d = denoiser.get_submodule(name)  # type: ignore[assignment]
        rounded = quantize_to_outputs(layer.weight, grams[name], parse_format(format), search)
        replace(denoiser, name, with_weight(layer, rounded))
    set_base_record(denoiser, record)
