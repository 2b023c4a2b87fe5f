"""intaglio as a diffusers quantizer: `quantization_config` in, packed integers in the denoiser.

A folder that intaglio saved gets quantized skeletons before its weights arrive. A float checkpoint is quantized weight
by weight as it arrives, so that no float copy of the denoiser is ever held. Both read the checkpoint's own tensors:
diffusers hands over casts to `torch_dtype`, and a scale that went through bfloat16 is another scale. So the integers
are the same whatever `torch_dtype` is; only the float layers follow it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from diffusers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from diffusers.quantizers.base import DiffusersQuantizer
from torch import Tensor, nn

from intaglio.checkpoints.checkpoint import check_readable
from intaglio.checkpoints.quantization_config import IntaglioConfig, describe, forget
from intaglio.errors import Problems, UserError
from intaglio.layers import frozen
from intaglio.layers.names import find_layers, replace
from intaglio.layers.quantize_model import layers_to_quantize
from intaglio.quantizers.formats import Format, parse_format
from intaglio.quantizers.quantize import QuantizedWeight, quantize
from intaglio.runtime.memory import return_memory
from intaglio.runtime.threads import one_thread

_PARTS = ("qdata", "scale", "zero_point", "input_scale")


class IntaglioQuantizer(DiffusersQuantizer):
    """Called by diffusers while it loads or saves a denoiser; nobody else needs it."""

    quantization_config: IntaglioConfig
    use_keep_in_fp32_modules = True  # the float layers are cast as those of a float model are

    def __init__(self, quantization_config: IntaglioConfig, **kwargs: Any):
        super().__init__(quantization_config, **kwargs)
        self._format = parse_format(quantization_config.format)
        self._keys: set[str] | None = None
        self._names: set[str] = set()
        self._done = 0

    def validate_environment(self, *args: Any, device_map: Any = None, **kwargs: Any) -> None:
        if isinstance(device_map, dict) and "disk" in device_map.values():
            raise UserError("device_map puts layers on the disk, which would cast their scales; use devices and 'cpu'")

    def maybe_update_loaded_keys(self, loaded_keys: list[str], checkpoint_files: Iterable[str]) -> list[str]:
        for file in checkpoint_files:
            check_readable(file)
        self._keys = set(loaded_keys)
        if any(key.endswith(".qdata") for key in loaded_keys) != self.pre_quantized:
            said = "says quantized, but the weights are float" if self.pre_quantized else "says float, but they are not"
            raise UserError(f"config.json and weights are not of one model: it {said}. Quantize the float model again")
        return loaded_keys

    def _process_model_before_weight_loading(
        self, model: nn.Module, state_dict: dict[str, Tensor] | None = None, **kwargs: Any
    ) -> None:
        if self._keys is None:  # a single file: diffusers takes every one for quantized
            self._keys = set(state_dict or ())
            self.pre_quantized = any(key.endswith(".qdata") for key in self._keys)
        self._names = set(layers_to_quantize(model, self.quantization_config.settle(model)))
        for name in self._names if self.pre_quantized else ():
            layer: Any = model.get_submodule(name)
            replace(model, name, skeleton(layer, self._format, f"{name}.input_scale" in self._keys))

    def update_missing_keys(self, model: nn.Module, missing_keys: list[str], prefix: str) -> list[str]:
        if self.pre_quantized:
            unexpected = (self._keys or set()) - set(model.state_dict())
            problems = [f"missing: {key}" for key in missing_keys] + [f"unexpected: {key}" for key in unexpected]
            _raise_any("the weights are not those that config.json describes", problems)
        return missing_keys

    def check_if_quantized_param(
        self, model: nn.Module, param_value: Tensor, param_name: str, state_dict: dict[str, Any], **kwargs: Any
    ) -> bool:
        name, _, part = param_name.rpartition(".")
        return name in self._names and (part in _PARTS if self.pre_quantized else part == "weight")

    def check_quantized_param_shape(self, param_name: str, current: Tensor, loaded: Tensor) -> Any:
        came, expected = tuple(loaded.shape), tuple(current.shape)
        raise UserError(f"{param_name}: shape {came}, expected {expected} by config.json; was the copy complete?")

    def create_quantized_param(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        model: nn.Module,
        param_value: Tensor,
        param_name: str,
        target_device: torch.device | str | int,
        state_dict: dict[str, Any],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        name, _, part = param_name.rpartition(".")
        layer: Any = model.get_submodule(name)
        original: Tensor = state_dict[param_name]
        if self.pre_quantized:
            expected = getattr(layer, part).dtype
            if original.dtype != expected:
                raise UserError(f"{param_name}: {original.dtype}, expected {expected}; not intaglio's own file")
            setattr(layer, part, original.to(target_device))
            return
        try:
            with one_thread():
                quantized = quantize(original, self._format, self.quantization_config.range_search)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        replace(model, name, frozen.with_weight(layer, _to_device(quantized, target_device)))
        self._done += 1
        if self.quantization_config.progress is not None:
            self.quantization_config.progress(self._done, len(self._names))

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: Any) -> None:
        config = self.quantization_config
        devices = set(getattr(model, "hf_device_map", {}).values())
        if len(devices) < 2:  # else accelerate has put the weights of offloaded layers aside
            parts = {**dict(model.named_parameters()), **dict(model.named_buffers())}
            _raise_any("the checkpoint has no weights for", [name for name, part in parts.items() if part.is_meta])
        promised = config.base_hash if self.pre_quantized else None
        describe(model, config)
        if promised is not None and len(devices) < 2 and config.base_hash != promised:
            raise UserError(
                f"the quantized weights are damaged: their hash is {str(config.base_hash)[:16]}, config.json says "
                f"{promised[:16]}. Copy the folder again, or quantize the model again"
            )
        # diffusers forbids every cast of a model with this flag, because other quantizers' weights would not survive
        # it. Ours do: scales are never cast, the float layers are.
        model.is_quantized = False  # pyright: ignore[reportArgumentType]
        return_memory()

    def get_state_dict_and_metadata(
        self, state_dict: dict[str, Any], safe_serialization: bool = False
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        check_no_adapter(state_dict)
        return state_dict, {}

    def _dequantize(self, model: nn.Module) -> nn.Module:
        for name, layer in list(find_layers(model)):
            replace(model, name, frozen.to_float(layer))
        forget(model)
        return model

    def get_special_dtypes_update(self, model: nn.Module, torch_dtype: torch.dtype) -> dict[str, torch.dtype]:
        weights = {f"{name}.weight" for name in self._names}
        return {name: torch_dtype for name, _ in model.named_parameters() if name not in weights}

    def adjust_target_dtype(self, torch_dtype: torch.dtype) -> Any:
        from accelerate.utils import CustomDtype

        return CustomDtype.INT4 if self._format.bits == 4 else torch.int8

    @property
    def is_serializable(self) -> Any:
        return True

    @property
    def is_trainable(self) -> Any:
        return True

    @property
    def supports_parallel_loading(self) -> bool:
        """Each thread would quantize a layer at once, with a float copy each."""
        return False


def check_no_adapter(keys: Iterable[str]) -> None:
    """Refuse to save a model with an adapter on it: its names are not those of the model."""
    inside = next((key for key in keys if ".base.qdata" in key or ".base_layer." in key), None)
    if inside is not None:
        raise UserError(
            f"the denoiser has an adapter on it ({inside}). Save the adapter by itself, and take it off with detach(), "
            "merge() or unload_lora_weights() before the base is saved"
        )


def skeleton(layer: nn.Linear | nn.Conv2d, format: Format, has_input_scale: bool) -> nn.Module:
    """The quantized twin of `layer`, without memory: the shapes and dtypes of its tensors."""
    shape = tuple(layer.weight.shape)
    rows, reduction = shape[0], layer.weight[0].numel()
    groups = format.num_groups(reduction)

    def empty(*size: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(*size, dtype=dtype, device="meta")

    quantized = QuantizedWeight(
        empty(rows, format.row_bytes(reduction), dtype=torch.uint8 if format.bits == 4 else torch.int8),
        empty(rows, groups, dtype=torch.float32),
        None if format.symmetric else empty(rows, groups, dtype=torch.int8),
        format,
        shape,
    )
    channels = frozen.geometry(layer).in_channels
    return frozen.with_weight(layer, quantized, empty(channels, dtype=torch.float32) if has_input_scale else None)


def _to_device(quantized: QuantizedWeight, device: torch.device | str | int) -> QuantizedWeight:
    zero_point = None if quantized.zero_point is None else quantized.zero_point.to(device)
    return QuantizedWeight(
        quantized.qdata.to(device), quantized.scale.to(device), zero_point, quantized.format, quantized.shape
    )


def _raise_any(subject: str, problems: list[str]) -> None:
    if problems:
        problems.sort()
        rest = len(problems) - 8
        raise Problems(subject, problems[:8] + ([f"and {rest} more"] if rest > 0 else []))


AUTO_QUANTIZER_MAPPING["intaglio"] = IntaglioQuantizer
AUTO_QUANTIZATION_CONFIG_MAPPING["intaglio"] = IntaglioConfig  # pyright: ignore[reportArgumentType]
