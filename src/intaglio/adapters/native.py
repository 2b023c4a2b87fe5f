"""Layers of a file that another program names: from its keys to diffusers' names, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from intaglio.adapters.fused import fuse, take_apart
from intaglio.adapters.keys import shorten
from intaglio.adapters.names import NameMap, map_for, name_maps, text, unet
from intaglio.adapters.state import AdapterState, ComponentState, LowRank, Names
from intaglio.errors import Problems, UserError

_UNDERSCORED = ("lora_unet_", "lora_transformer_", "lycoris_")
_DOTTED = ("diffusion_model.", "model.diffusion_model.")
_TEXT_DOTTED = {
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoders.clip_g.transformer.": "text_encoder_2",
}
PREFIXES = (*_UNDERSCORED, *_DOTTED, *text.PREFIXES, *_TEXT_DOTTED)


def components_of(
    path: Path, layers: Mapping[str, LowRank], names: Names | None, family: str | None
) -> dict[str, ComponentState]:
    """Diffusers' names for the layers of a file, by component.

    Args:
        layers: by the file's own names, with their prefixes.
        names: the model that it is for, where there is one.
        family: of the denoiser, where the file says it.

    Raises:
        Problems: layers that this model, or any known family, does not have.
    """
    parts: dict[str, dict[str, LowRank]] = {}
    denoiser: dict[str, LowRank] = {}
    unknown = []
    for key, pair in layers.items():
        found = _text_layer(key)
        prefix = next((p for p in (*_UNDERSCORED, *_DOTTED) if key.startswith(p)), None)
        if found is not None:
            parts.setdefault(found[0], {})[found[1]] = pair
        elif prefix is not None:
            denoiser[key.removeprefix(prefix)] = pair
        else:
            unknown.append(key)
    if denoiser:
        component, resolved, missing = _denoiser(denoiser, names, family)
        parts[component] = resolved
        unknown += missing
    if unknown:
        shown = [shorten(key) for key in unknown[:4]] + ([f"and {len(unknown) - 4} more"] if len(unknown) > 4 else [])
        of = "any model that is known here" if names is None else "this model"
        raise Problems(f"{path}: layers that are not of {of}", shown)
    return {name: ComponentState(part) for name, part in parts.items()}


def native_layers(path: Path, names: NameMap, layers: Mapping[str, LowRank]) -> dict[str, LowRank]:
    """The released names of diffusers' layers, with fused ones put together.

    Raises:
        Problems: layers that the released model does not have.
    """
    found: dict[str, tuple[tuple[int, ...], dict[int, LowRank]]] = {}
    missing = []
    for layer, pair in layers.items():
        place = names.place(layer)
        if place is None:
            missing.append(layer)
        else:
            found.setdefault(place.native, (place.sizes, {}))[1][place.part] = pair
    if missing:
        raise Problems(
            f"{path}: the released {names.family} has no place for layers of this LoRA; save it for diffusers",
            missing[:4] + ([f"and {len(missing) - 4} more"] if len(missing) > 4 else []),
        )
    return {n: parts[0] if len(sizes) == 1 else fuse(n, parts, sizes) for n, (sizes, parts) in found.items()}


def map_of(path: Path, state: AdapterState, layers: Mapping[str, LowRank]) -> NameMap:
    """The table of a transformer's family.

    Raises:
        UserError: it cannot be told, or is not known.
    """
    names = map_for(state.family, layers)
    if names is None:
        what = state.family or "a transformer whose family its layers do not tell"
        raise UserError(
            f"{path}: {what}; known: {', '.join(name_maps())}, and U-Nets. Name its model with --base, or save it for "
            "diffusers"
        )
    return names


def _text_layer(key: str) -> tuple[str, str] | None:
    for prefix, component in text.PREFIXES.items():
        if key.startswith(prefix):
            layer = text.dotted(key.removeprefix(prefix))
            return None if layer is None else (component, layer)
    for prefix, component in _TEXT_DOTTED.items():
        if key.startswith(prefix):
            return component, key.removeprefix(prefix)
    return None


def _denoiser(
    layers: Mapping[str, LowRank], names: Names | None, family: str | None
) -> tuple[str, dict[str, LowRank], list[str]]:
    """(component, layers by diffusers' names, names that were not found)."""
    resolved, rest = {}, {}
    direct = {} if names is None else {spelled: n for n in names.shapes for spelled in (n, n.replace(".", "_"))}
    for key, pair in layers.items():
        if key in direct:
            resolved[direct[key]] = pair
        else:
            rest[key] = pair
    if not rest:
        return names.component if names is not None else "transformer", resolved, []
    if names is None or names.component == "unet":
        found, missing = _unet(rest, names)
        if names is not None or (found and not missing):
            return "unet", resolved | found, missing
    return "transformer", *_transformer(resolved, rest, names, family)


def _unet(layers: Mapping[str, LowRank], names: Names | None) -> tuple[dict[str, LowRank], list[str]]:
    per_block = unet.count_layers_per_block(() if names is None else names.shapes)
    found, missing = {}, []
    for key, pair in layers.items():
        spelled = key if "." in key else unet.dotted(key)
        layer = None if spelled is None else unet.from_native(spelled, per_block) or spelled
        if layer is None or not unet.is_ours(layer) or (names is not None and layer not in names.shapes):
            missing.append(key)
        else:
            found[layer] = pair
    return found, missing


def _transformer(
    resolved: dict[str, LowRank], layers: Mapping[str, LowRank], names: Names | None, family: str | None
) -> tuple[dict[str, LowRank], list[str]]:
    """With the first table that has all of the names; the missing ones of the best table where none has."""
    family = names.family if names is not None else family
    known = [m for m in name_maps().values() if m.family == family] or list(name_maps().values())
    best: tuple[dict[str, LowRank], list[str]] = {}, list(layers)
    for table in known:
        found, missing = _by_table(table, layers, names)
        if len(missing) < len(best[1]):
            best = found, missing
    return resolved | best[0], best[1]


def _by_table(
    table: NameMap, layers: Mapping[str, LowRank], names: Names | None
) -> tuple[dict[str, LowRank], list[str]]:
    found, missing = {}, []
    for key, pair in layers.items():
        native = key if "." in key else table.dotted(key) or key
        places = table.layers(native)
        ours = key if "." in key else table.dotted_ours(key)
        if places and _fits(places[0][1].sizes, pair, names):
            sizes = places[0][1].sizes
            parts = [pair] if len(sizes) == 1 else take_apart(native, pair, sizes)
            placed = {layer: part for (layer, _), part in zip(places, parts, strict=True) if part is not None}
        elif ours is not None and table.place(ours) is not None:
            placed = {ours: pair}
        else:
            placed = None
        if placed is None or (names is not None and not placed.keys() <= names.shapes.keys()):
            missing.append(key)
        else:
            found |= placed
    return found, missing


def _fits(sizes: tuple[int, ...], pair: LowRank, names: Names | None) -> bool:
    """Whether a fused weight can have these parts: without a model, by the width that q, k and v share with the input.

    FLUX.1 and FLUX.2 call different things `linear1`: 7 times the width, and 9 times.
    """
    return names is not None or len(sizes) == 1 or pair.up.shape[0] == sum(sizes) * pair.down.shape[1]
