"""A denoiser from the weights of a source: quantized layers as they are, everything else in float.

No float copy of the whole model is made: layers are repacked one at a time. Where a file has the names of the released
model, diffusers' own conversion says which of its rows make up which layer: it is run on the numbers of rows in place
of weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from intaglio.errors import Problems, UserError
from intaglio.layers import frozen
from intaglio.layers.names import replace
from intaglio.layers.quantize_model import BaseRecord, set_base_record
from intaglio.quantizers.quantize import QuantizedWeight, dequantize
from intaglio.runtime.memory import return_memory

_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.", "unet.")
Weights = Mapping[str, "QuantizedWeight | Tensor"]
"""Layer -> quantized weight, parameter -> float tensor."""


def assemble(
    model_class: Any,
    config: Mapping[str, Any],
    weights: Iterator[tuple[str, QuantizedWeight | Tensor]],
    dtype: torch.dtype,
) -> nn.Module:
    """The model of `config` with these weights, in evaluation mode.

    Args:
        model_class: of diffusers.
        dtype: of what is float.

    Raises:
        UserError: weights that are missing or do not fit, all of them at once.
    """
    from accelerate import init_empty_weights

    with init_empty_weights():
        model: nn.Module = model_class.from_config({k: v for k, v in config.items() if k != "quantization_config"})
    found = _without_prefix(dict(weights))
    names = set(model.state_dict())
    if not all(_parameter(name, value) in names for name, value in found.items()):
        found = _by_conversion(model_class, config, found, names)
    floats: dict[str, Tensor] = {}
    quantized: dict[str, QuantizedWeight] = {}
    for name, value in found.items():
        if isinstance(value, Tensor):
            floats[name] = value.to(dtype) if value.is_floating_point() else value
        elif _fits(model, name, value):
            quantized[name] = value
        else:  # an embedding, or a layer that other code asks for its weight
            floats[f"{name}.weight"] = dequantize(value).to(dtype)
    _check(model, floats, quantized)
    model.load_state_dict(floats, strict=False, assign=True)
    for name, value in quantized.items():
        layer: Any = model.get_submodule(name)
        shaped = QuantizedWeight(value.qdata, value.scale, value.zero_point, value.format, tuple(layer.weight.shape))
        replace(model, name, frozen.with_weight(layer, shaped))
    _record(model, quantized)
    return_memory()
    return model.eval()


def _parameter(name: str, value: QuantizedWeight | Tensor) -> str:
    return name if isinstance(value, Tensor) else f"{name}.weight"


def _without_prefix(weights: Weights) -> dict[str, QuantizedWeight | Tensor]:
    for prefix in _PREFIXES:
        own = {n.removeprefix(prefix): v for n, v in weights.items() if n.startswith(prefix)}
        if own:  # a whole checkpoint has text encoders and an autoencoder beside it
            return own
    return dict(weights)


def _fits(model: nn.Module, name: str, value: QuantizedWeight) -> bool:
    """Whether the layer can hold it: a Linear, or a convolution of one pixel."""
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        return True  # it is reported as unexpected
    if isinstance(layer, nn.Linear):
        return True
    return isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1


def _check(model: nn.Module, floats: Mapping[str, Tensor], quantized: Mapping[str, QuantizedWeight]) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    came = {name: tuple(tensor.shape) for name, tensor in floats.items()}
    came |= {f"{name}.weight": value.shape for name, value in quantized.items()}
    problems = [f"missing: {name}" for name in expected if name not in came]
    problems += [f"unexpected: {name[:100]}" for name in came if name not in expected]
    for name, shape in came.items():
        wanted = expected.get(name)
        if wanted is not None and (shape != wanted and (*shape, 1, 1) != wanted):
            problems.append(f"{name}: shape {shape}, expected {wanted}")
    if problems:
        rest = len(problems) - 6
        shown = problems[:6] + ([f"and {rest} more"] if rest > 0 else [])
        raise Problems(f"these weights are not those of this {type(model).__name__}", shown)


def _record(model: nn.Module, quantized: Mapping[str, QuantizedWeight]) -> None:
    sizes: dict[str, int] = {}
    for value in quantized.values():
        sizes[value.format.name] = sizes.get(value.format.name, 0) + value.qdata.numel()
    if sizes:
        kept = tuple(n for n, m in model.named_modules() if type(m) in (nn.Linear, nn.Conv2d))
        set_base_record(model, BaseRecord(max(sizes, key=lambda name: sizes[name]), "absmax", kept))


def _by_conversion(
    model_class: Any, config: Mapping[str, Any], weights: Weights, names: set[str]
) -> dict[str, QuantizedWeight | Tensor]:
    """The weights by diffusers' names; as they are where more of them have those already than after a conversion.

    Raises:
        UserError: diffusers has no conversion for this class, or it does not take these names.
    """
    from diffusers.loaders import single_file_model

    known_already = sum(_parameter(name, value) in names for name, value in weights.items())
    known: Any = single_file_model.SINGLE_FILE_LOADABLE_CLASSES.get(model_class.__name__)
    if known is None:
        if known_already:
            return dict(weights)
        raise UserError(f"names of a released model, which diffusers cannot convert to {model_class.__name__}")
    rows, owners = _numbered(weights)
    function = known["checkpoint_mapping_fn"]
    possible = {"checkpoint": dict(rows), "config": dict(config)}
    arguments = single_file_model._get_mapping_function_kwargs(function, **possible)
    try:
        converted = function(**arguments)
    except (KeyError, ValueError, IndexError, RuntimeError, AttributeError, TypeError) as error:
        if known_already:
            return dict(weights)
        raise UserError(
            f"these are not the names of a {model_class.__name__} that diffusers knows "
            f"({type(error).__name__}: {str(error)[:120]}); is it for another model?"
        ) from error
    if sum(name in names for name in converted) < known_already:
        return dict(weights)
    return dict(_collect(name, value, owners) for name, value in converted.items())


def _numbered(weights: Weights) -> tuple[dict[str, Tensor], list[tuple[int, QuantizedWeight]]]:
    """Every quantized weight as a column of numbers, float64, one a row; and (first number, weight) of each."""
    rows: dict[str, Tensor] = {}
    owners: list[tuple[int, QuantizedWeight]] = []
    first = 0
    for name, value in weights.items():
        if isinstance(value, Tensor):
            rows[name] = value.float() if value.dtype == torch.float64 else value
        else:
            count = value.shape[0]
            rows[f"{name}.weight"] = torch.arange(first, first + count, dtype=torch.float64)[:, None]
            owners.append((first, value))
            first += count
    return rows, owners


def _collect(
    name: str, value: Tensor, owners: list[tuple[int, QuantizedWeight]]
) -> tuple[str, QuantizedWeight | Tensor]:
    """The rows with these numbers, as one weight; float where they are of several formats."""
    if value.dtype != torch.float64:
        return name, value
    numbers = value.flatten().long()
    parts = []
    for first, weight in owners:
        own = numbers[(numbers >= first) & (numbers < first + weight.shape[0])] - first
        if len(own):
            parts.append((int((numbers == own[0] + first).nonzero()[0]), _rows(weight, own)))
    chosen = [part for _, part in sorted(parts, key=lambda pair: pair[0])]
    if len({part.format for part in chosen}) > 1:
        return name, torch.cat([dequantize(part) for part in chosen])
    zero = (
        None if chosen[0].zero_point is None else torch.cat([p.zero_point for p in chosen if p.zero_point is not None])
    )
    whole = QuantizedWeight(
        torch.cat([part.qdata for part in chosen]),
        torch.cat([part.scale for part in chosen]),
        zero,
        chosen[0].format,
        (len(numbers), chosen[0].shape[1]),
    )
    return name.removesuffix(".weight"), whole


def _rows(weight: QuantizedWeight, rows: Tensor) -> QuantizedWeight:
    zero = None if weight.zero_point is None else weight.zero_point[rows]
    shape = (len(rows), *weight.shape[1:])
    return QuantizedWeight(weight.qdata[rows], weight.scale[rows], zero, weight.format, shape)
