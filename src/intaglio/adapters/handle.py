"""The handle of an attached method."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from intaglio.adapters.formats import adapter_formats, find_format, format_named
from intaglio.adapters.header import Header, find_file, read_header
from intaglio.adapters.state import AdapterState, ComponentState, LowRank, Names
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
        self._gone: str | None = None
        self._names = {n for n, p in model.named_parameters() if p.requires_grad}

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """What was trainable when the adapter was attached, by names in the model. Empty once it is taken off."""
        return {n: p for n, p in self.model.named_parameters() if n in self._names} if self._gone is None else {}

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

    def state(self) -> AdapterState:
        """What the adapter holds now, in no file's layout. The tensors are those of the model, not copies.

        Raises:
            UserError: it was merged or taken off.
        """
        if self._gone is not None:
            raise UserError(
                f"this adapter was taken off by {self._gone}, so there is nothing to save; save it before. A file that "
                "it was saved to is still there"
            )
        header, parameters = self.header(), self.named_parameters()
        low_rank = {}
        for name, layer in adapter_layers(self.model).items():
            if isinstance(layer, LowRankLayer) and layer.layout == "lora":
                low_rank[name] = LowRank(layer.lora_a.detach(), layer.lora_b.detach(), layer.alpha)
                for part in ("lora_a", "lora_b"):
                    parameters.pop(f"{name}.{part}", None)
        other = {name: parameter.detach() for name, parameter in parameters.items()}
        return AdapterState({header.component: ComponentState(low_rank, other)}, header)

    def save(self, folder: str | Path, format: str | None = None, *, exact: bool = False) -> Path:
        """Write the adapter, and nothing of the base, to `folder`; returns the path of the file.

        Args:
            format: a name of `intaglio.adapters.formats`; None takes diffusers' for LoRA, and our own for the rest.
            exact: take a format that gives back these very bits where diffusers' would round: it folds alpha / rank
                into the weights. For checkpoints, so that a resumed run goes on exactly.

        Raises:
            UserError: the adapter was taken off, has values that are not finite, or the format cannot hold it. What
                lies in the folder stays then.
        """
        state = self.state()
        if format is None:
            part = state.components[state.header.component] if state.header is not None else ComponentState()
            rounds = exact and any(math.frexp(pair.scaling)[0] != 0.5 for pair in part.low_rank.values())
            format = "diffusers" if state.is_low_rank and not rounds else "intaglio"
        written = format_named(format)
        path = Path(folder) / written.file_name
        written.write(path, state)
        for other in adapter_formats().values():  # a folder holds one adapter
            if other.file_name != written.file_name:
                (path.parent / other.file_name).unlink(missing_ok=True)
        return path

    def load(self, folder: str | Path) -> None:
        """Take the values of an adapter of the same method, targets and base: a switch without reloading.

        Raises:
            WrongBase: it was trained on other integers.
            Problems: its tensors are not those of this adapter.
        """
        path = find_file(Path(folder))
        header = read_header(path)
        if header is not None and header.base_hash != self.base_hash:
            raise WrongBase(str(folder), header.base_hash or "of float weights", self.base_hash or "float")
        state = find_format(path).read(path, Names.of(self.model))
        component = self.header().component
        part = state.components.get(component, ComponentState())
        tensors, own = self._tensors(part), self.named_parameters()
        problems = [
            *_first([f"missing: {n}" for n in own if n not in tensors]),
            *_first([f"unexpected: {n}" for n in tensors if n not in own]),
            *_first([f"unexpected: {name}" for name in state.components if name != component]),
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

    def _tensors(self, part: ComponentState) -> dict[str, Tensor]:
        """The values for our parameters, by name; factors are brought to the scaling of the layer that takes them."""
        tensors, layers = dict(part.other), adapter_layers(self.model)
        for name, pair in part.low_rank.items():
            layer = layers.get(name)
            scaled = pair.scaled_to(layer.scaling) if isinstance(layer, LowRankLayer) else pair
            tensors |= {f"{name}.lora_a": scaled.down, f"{name}.lora_b": scaled.up}
        return tensors

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
        self._put({name: layer.base for name, layer in layers.items()}, "detach()")
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
        self._put(merged, "merge()")
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

    def _put(self, layers: dict[str, nn.Linear | nn.Conv2d], by: str) -> None:
        for name, layer in layers.items():
            replace(self.model, name, layer)
        remove_integer_path(self.model)
        if self._remove_hook is not None:
            self._remove_hook()
        self._base_hash, self._gone = None, by


def _first(problems: list[str], most: int = 3) -> list[str]:
    rest = len(problems) - most
    return problems if rest <= 1 else [*problems[:most], f"and {rest} more of this kind"]
