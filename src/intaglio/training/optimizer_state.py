"""The state of any torch optimizer by the names of its parameters, as tensors and JSON, and back.

torch's own `load_state_dict` counts parameters instead of naming them, and gives state the dtype of its parameter: INT8
moments would not survive it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_PLAIN = (bool, int, float, str, type(None))


def optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> tuple[dict[str, Tensor], str]:
    """Tensors on the CPU by `<key>.<parameter>` or `<key>.group<number>`, and the rest as JSON.

    Raises:
        TypeError: the optimizer keeps something that is neither a tensor nor JSON.
    """
    names = {id(p): n for n, p in parameters.items()}
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    apart: list[str] = []
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            place = f"{key}.{names[id(parameter)]}"
            if isinstance(value, Tensor):
                tensors[place] = value.detach().cpu().clone().contiguous()
                if value.device != parameter.device:
                    apart.append(place)
            else:
                plain[place] = _checked(optimizer, key, value)
    for number, group in enumerate(optimizer.param_groups):
        for key, value in group.items():
            place = f"{key}.group{number}"
            if key == "params" or _same(value, optimizer.defaults.get(key)):
                continue
            if isinstance(value, Tensor):
                tensors[place] = value.detach().cpu().clone().contiguous()
            else:
                plain[place] = _checked(optimizer, key, value)
    return tensors, json.dumps({"plain": plain, "on_cpu": apart})


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], rest: str
) -> None:
    """Give a new optimizer, made with the same options, the state that `optimizer_state` took from another."""
    read = json.loads(rest)
    apart = set(read["on_cpu"])
    for place, value in [*tensors.items(), *read["plain"].items()]:
        key, _, name = place.partition(".")
        if name in parameters:
            parameter = parameters[name]
            if isinstance(value, Tensor) and place not in apart:
                value = value.to(parameter.device)
            optimizer.state[parameter][key] = value
        else:
            group = optimizer.param_groups[int(name.removeprefix("group"))]
            before = group.get(key)
            if isinstance(before, Tensor) and isinstance(value, Tensor):
                value = value.to(before.device)
            group[key] = tuple(value) if isinstance(before, tuple) else value


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, Tensor) or isinstance(default, Tensor):
        return False
    return type(value) is type(default) and value == default


def _checked(optimizer: torch.optim.Optimizer, key: str, value: Any) -> Any:
    parts = value if isinstance(value, tuple | list) else (value,)
    if not all(isinstance(part, _PLAIN) for part in parts):
        raise TypeError(f"{type(optimizer).__name__} keeps {key!r} as {type(value).__name__}; a checkpoint cannot")
    return value
