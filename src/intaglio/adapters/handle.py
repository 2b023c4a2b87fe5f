"""The handle of an attached method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from intaglio.adapters.file import Header, read_header, read_tensors, write_file
from intaglio.errors import CannotMerge, Problems, UserError, WrongBase
from intaglio.families.registry import denoisers_of
from intaglio.layers import frozen
from intaglio.layers.integer_path import remove_integer_path
from intaglio.layers.kinds import MergeableLayer
from intaglio.layers.low_rank import LowRankLayer
from intaglio.layers.names import adapter_layers, find_layers, replace
from intaglio.layers.quantize_model import base_hash, base_record, hold_float_weights, set_base_record
from intaglio.layers.timesteps import TimestepContext
from intaglio.methods.registry import method_options
from intaglio.methods.settle import Settled


class Adapter:
    """What `attach` returns: the trainable parameters of a model and what can be done with them."""

    def __init__(
        self,
        model: nn.Module,
        settled: Settled,
        targets: list[str] | None,
        layers: list[str],
        remove_hook: Callable[[], None] | None,
        times: TimestepContext | None = None,
    ) -> None:
        self.model, self.settled, self.targets, self.layers = model, settled, targets, layers
        self.method = settled.method
        self._remove_hook = remove_hook
        self.times = times or TimestepContext()
        """A training loop says here which noise levels it draws."""
        self._base_hash: str | None = None
        self._unpacked = False

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """The trainable parameters, by their names in the model."""
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    def parameters(self) -> list[nn.Parameter]:
        """What goes to the optimizer. Float32, but for `Full()`, which trains the model's own."""
        return list(self.named_parameters().values())

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())

    @property
    def base_hash(self) -> str | None:
        """The identity of the quantized base, None for a float one."""
        if self._base_hash is None and base_record(self.model) is not None:
            self._base_hash = base_hash(self.model)
        return self._base_hash

    def header(self) -> Header:
        """What an adapter file says of itself."""
        return Header(
            method=self.method.name,
            options=method_options(self.method),
            targets=self.targets,
            layers=self.layers,
            component=denoisers_of(self.model).component,
            model_class=type(self.model).__name__,
            base=base_record(self.model),
            base_hash=self.base_hash,
        )

    def save(self, folder: str | Path) -> Path:
        """Write the adapter, and nothing of the base, to `folder`; returns the path of the file."""
        layer = next(iter(adapter_layers(self.model).values()), None)
        lora = None
        if isinstance(layer, LowRankLayer) and layer.layout == "lora":
            lora = (layer.rank, layer.alpha)
        return write_file(Path(folder), self.header(), dict(self.named_parameters()), lora)

    def load(self, folder: str | Path) -> None:
        """Take the values of an adapter of the same method, targets and base: a switch without reloading.

        Raises:
            WrongBase: it was trained on other integers.
            Problems: its tensors are not those of this adapter.
        """
        folder = Path(folder)
        header = read_header(folder)
        if header is not None and header.base_hash != self.base_hash:
            raise WrongBase(str(folder), header.base_hash or "of float weights", self.base_hash or "float")
        tensors, own = read_tensors(folder), self.named_parameters()
        problems = [
            *_first([f"missing: {n}" for n in own if n not in tensors]),
            *_first([f"unexpected: {n}" for n in tensors if n not in own]),
            *_first(
                [
                    f"{n}: shape {tuple(tensors[n].shape)}, expected {tuple(p.shape)}"
                    for n, p in own.items()
                    if n in tensors and tensors[n].shape != p.shape
                ]
            ),
        ]
        if problems:
            raise Problems(f"{folder} is no adapter for {self.method} on this {type(self.model).__name__}", problems)
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(tensors[name])

    def unpack_base(self) -> None:
        """Hold the frozen weights dequantized, so that no step unpacks their codes: the same numbers up to rounding,
        more memory, less time where unpacking is slow. For training and drawing; the model is no quantized one after.
        """
        self._base_hash = self.base_hash  # of the codes, before they go
        hold_float_weights(self.model)
        self._unpacked = base_record(self.model) is not None

    def detach(self) -> nn.Module:
        """Take the adapter off: the model is its (quantized) base again.

        Raises:
            UserError: `Full()` changed the weights themselves.
        """
        self._check_packed("detach")
        layers = adapter_layers(self.model)
        if not layers:
            raise UserError(f"{self.method} has no adapter beside the weights to take off; load the model again")
        self._put({name: layer.base for name, layer in layers.items()})
        return self.model

    def merge(self, *, dequantize: bool = False) -> nn.Module:
        """Fold what was trained into the base, and take the adapter off. Exact up to one rounding of a float.

        Args:
            dequantize: make the whole model float first; then everything folds that has one weight for all timesteps.

        Raises:
            CannotMerge: something does not fold exactly. Nothing has been changed then.
        """
        if not dequantize:
            self._check_packed("merge")
        merged = {}
        for name, layer in adapter_layers(self.model).items():
            if not isinstance(layer, MergeableLayer):
                raise CannotMerge(
                    f"{self.method} has a weight of its own for each timestep interval, so no single weight equals it. "
                    "Keep the adapter file, or train with num_intervals=1"
                )
            reason = None if dequantize else layer.why_not_merge()
            if reason is not None:
                raise CannotMerge(f"{name}: {reason}")
            merged[name] = layer
        merged = {n: layer.merged_float() if dequantize else layer.merge() for n, layer in merged.items()}
        self._put(merged)
        if dequantize:
            for name, layer in list(find_layers(self.model)):
                replace(self.model, name, frozen.to_float(layer))
            if getattr(self.model, "hf_quantizer", None) is not None:
                self.model.dequantize()  # pyright: ignore[reportCallIssue]  of diffusers: its config says float again
            set_base_record(self.model, None)
        self.model.requires_grad_(False)
        return self.model

    def _check_packed(self, action: str) -> None:
        if self._unpacked:
            raise UserError(
                f"cannot {action} after unpack_base(): the codes are gone. Load the model again, or call "
                "merge(dequantize=True)"
            )

    def _put(self, layers: dict[str, nn.Linear | nn.Conv2d]) -> None:
        for name, layer in layers.items():
            replace(self.model, name, layer)
        remove_integer_path(self.model)
        if self._remove_hook is not None:
            self._remove_hook()
        self._base_hash = None


def _first(problems: list[str], most: int = 3) -> list[str]:
    rest = len(problems) - most
    return problems if rest <= 1 else [*problems[:most], f"and {rest} more of this kind"]
