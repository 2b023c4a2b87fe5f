"""A LoRA of another program as one of ours: with a header that says base, method and layers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from intaglio.adapters.formats import find_format, format_named
from intaglio.adapters.header import LORA_FILE, Header, find_file
from intaglio.adapters.state import AdapterState, ComponentState, Names
from intaglio.errors import Problems, UserError
from intaglio.methods.registry import build_method, method_options
from intaglio.quantizers.base import Base


@dataclass(frozen=True)
class Adopted:
    path: Path
    state: AdapterState
    left_out: tuple[str, ...]
    """Components of the file that are not written: only the denoiser is trained here."""


def adopt(file: Path, out: Path, model: nn.Module, base: Base | None, base_hash: str | None) -> Adopted:
    """Write the LoRA in `file` to the folder `out` as an adapter of `model`.

    Layers of a smaller rank than the largest are padded with zeros, which changes nothing but the size.

    Args:
        model: the denoiser; on the meta device it will do.
        base, base_hash: how it is quantized; None for a float one.

    Raises:
        UserError: no LoRA, or one for another model: all that does not fit is listed.
    """
    file = find_file(file)
    names = Names.of(model)
    state = find_format(file).read(file, names)
    part = state.components.get(names.component)
    if part is None or not part.low_rank or not state.is_low_rank:
        raise UserError(f"{file}: no LoRA for a {names.component}; it has {', '.join(state.components) or 'nothing'}")
    _check(file, part, names)
    rank = max(pair.rank for pair in part.low_rank.values())
    pairs = {name: pair.padded(rank).folded() for name, pair in part.low_rank.items()}
    method = build_method("lora" if base is None else "qlora", {"rank": rank})
    layers = list(pairs)
    header = Header(
        method=method.name,
        options=method_options(method),
        targets=layers,
        layers=layers,
        component=names.component,
        model_class=type(model).__name__,
        base=base,
        base_hash=base_hash,
    )
    adopted = AdapterState({names.component: ComponentState(pairs)}, header, state.metadata)
    format_named("diffusers").write(out / LORA_FILE, adopted)
    return Adopted(out / LORA_FILE, adopted, tuple(n for n in state.components if n != names.component))


def _check(file: Path, part: ComponentState, names: Names) -> None:
    problems = []
    for name, pair in part.low_rank.items():
        expected = names.shapes.get(name)
        if expected is None:
            problems.append(f"{name}: no such layer")
        elif (pair.up.shape[0], *pair.down.shape[1:]) != expected:
            came = (pair.up.shape[0], *pair.down.shape[1:])
            problems.append(f"{name}: for a weight of shape {came}, expected {expected}")
    if problems:
        shown = problems[:4] + ([f"and {len(problems) - 4} more"] if len(problems) > 4 else [])
        raise Problems(f"{file} is for another model", shown)
