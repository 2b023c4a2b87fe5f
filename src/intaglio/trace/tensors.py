"""Which tensors of a step hold the same values, and which are weights: names by storage, carried through copies.

Works on real, meta and fake tensors alike: a storage is told by its address in the allocator's books, never by data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from intaglio.layers.codes_tensor import CodesTensor
from intaglio.layers.frozen import QuantizedLayer

Origin = Literal["weight", "constant", "forward", "backward"]

LORA = ("lora_a", "lora_b")
_WRAPPERS = {"base", "base_layer", "module", "_orig_mod"}


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter, or the codes of a quantized one. `bits` and `dtype` are None where torch's own dtype says them."""

    layer: str
    role: str  # weight, lora_a or lora_b
    trainable: bool
    bits: int | None = None
    dtype: str | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a storage. `weight` is set where it holds a weight, or is computed from weights alone."""

    name: str
    origin: Origin
    weight: Weight | None = None
    probabilities: bool = False  # what a softmax gave
    sums: bool = False  # integer sums of a product, perhaps scaled: what its epilogue works on
    packed: tuple[tuple[Weight, str, int], ...] = ()  # weights side by side: (weight, name, length)


class Tensors:
    """The tensors of one step, by storage."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[StorageWeakRef, Known]] = {}
        self._numbers = 0

    def add_model(self, model: nn.Module, prefix: str) -> None:
        """Learn the names of a model's parameters and buffers."""
        for name, parameter in model.named_parameters(remove_duplicate=False):
            layer, role = weight_name(prefix + name)
            known = Known(prefix + name, "weight", Weight(layer, role, parameter.requires_grad))
            self._set(parameter, known)
            if isinstance(parameter, CodesTensor):
                self._set(parameter.codes, known)
                self._set(parameter.scale, Known(prefix + name + ".scale", "constant"))
        for name, buffer in model.named_buffers(remove_duplicate=False):
            self._set(buffer, Known(prefix + name, "constant"))
        for name, module in model.named_modules(remove_duplicate=False):
            if isinstance(module, QuantizedLayer):
                path = f"{prefix}{name}.weight"
                layer, role = weight_name(path)
                weight = Weight(layer, role, False, module.format.bits, module.format.name)
                self._set(module.qdata, Known(path, "weight", weight))

    def known(self, tensor: Tensor) -> Known:
        """What is known of the storage of `tensor`; one never seen before came from outside, as the batch does."""
        entry = self._known.get(_address(tensor))
        return self.new(tensor, "forward") if entry is None else entry[1]

    def seen(self, tensor: Tensor) -> bool:
        return _address(tensor) in self._known

    def name(self, tensor: Tensor) -> str:
        """Of the values: a part of a storage is another operand than the whole."""
        name, elements = self.known(tensor).name, tensor.untyped_storage().nbytes() // max(1, tensor.element_size())
        offset = tensor.storage_offset()
        if tensor.numel() >= elements and not offset:
            return name
        return f"{name}[{offset}:{offset + tensor.numel()}]"

    def new(self, tensor: Tensor, origin: Origin, **facts: Any) -> Known:
        """Values that were not there before; `facts` are fields of `Known`."""
        self._numbers += 1
        return self._set(tensor, Known(f"t{self._numbers}", origin, **facts))

    def derive(self, tensor: Tensor, sources: Sequence[Tensor]) -> None:
        """Computed from weights and constants alone: of several weights it is the one with the most elements."""
        known = [(source.numel(), self.known(source)) for source in sources]
        weights = [(elements, k) for elements, k in known if k.weight is not None]
        if weights:
            largest = max(weights, key=lambda pair: pair[0])[1]
            self._set(tensor, Known(largest.name, "constant", largest.weight))
        else:
            self.new(tensor, "constant")

    def pack(self, tensor: Tensor, parts: Sequence[Tensor], axis: int) -> None:
        """`tensor` is weights side by side: a product with it is a product with each."""
        known = [self.known(part) for part in parts]
        packed = tuple((k.weight, k.name, p.shape[axis]) for k, p in zip(known, parts, strict=True) if k.weight)
        self.derive(tensor, parts)
        self._set(tensor, replace(self.known(tensor), packed=packed))

    def copy(self, tensor: Tensor, source: Tensor) -> None:
        """`tensor` holds the values of `source`, in another layout or dtype, or times one number."""
        self._set(tensor, replace(self.known(source), name=self.name(source)))

    def _set(self, tensor: Tensor, known: Known) -> Known:
        # The weak reference keeps the address from being given to another storage while this step is recorded.
        self._known[_address(tensor)] = (StorageWeakRef(tensor.untyped_storage()), known)
        return known


def weight_name(path: str) -> tuple[str, str]:
    """(layer, role) of a parameter: `to_q.base.qdata` -> (to_q, weight); `to_q.lora_A.default.weight` -> (to_q.lora_A,
    lora_a)."""
    parts = path.split(".")
    for index, part in enumerate(parts):
        if part.lower() in LORA:
            return ".".join((*_unwrapped(parts[:index]), part)), part.lower()
    return ".".join(_unwrapped(parts[:-1])), "weight"


def module_name(path: str) -> str:
    """A module's name without what wraps it."""
    return ".".join(_unwrapped(path.split(".")))


def _unwrapped(parts: Sequence[str]) -> list[str]:
    return [part for part in parts if part and part not in _WRAPPERS]


def tensors_in(value: object) -> list[Tensor]:
    """All tensors in nested lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


def dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def bits_of(dtype: torch.dtype) -> int:
    return 8 * dtype.itemsize


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
