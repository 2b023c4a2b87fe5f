"""bitsandbytes as diffusers saves it: NF4 with scales in one or two levels, and LLM.int8's weights.

Source: bitsandbytes `functional.py` (QuantState, dequantize_4bit, int8_vectorwise_dequant). Nested scales become
float32, the very values that its kernels use; the NF4 codes are repacked (there the first of two lies in the high
nibble), INT8 stays as it is with `SCB / 127` for a scale.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intaglio.checkpoints.sources.files import TensorFiles
from intaglio.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from intaglio.quantizers.quantize import QuantizedWeight

_STATE = ".quant_state.bitsandbytes__"
_PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
_MAX_STATE_BYTES = 100_000


class BitsandbytesSource:
    name = "bitsandbytes"
    summary = "NF4 and INT8 folders that diffusers saved with bitsandbytes"

    def claims(self, path: Path, config: Mapping[str, Any] | None) -> bool:
        return config is not None and "bitsandbytes" in str(config.get("quant_method"))

    def weights(self, path: Path, config: Mapping[str, Any] | None) -> Iterator[tuple[str, QuantizedWeight | Tensor]]:
        files = TensorFiles(path)
        states = {name.partition(_STATE)[0]: name for name in files if _STATE in name}
        for name in files:
            layer = name.removesuffix(".weight")
            if name in states:
                yield from _four_bits(path, files, name, states[name])
            elif f"{layer}.SCB" in files and layer != name:
                yield layer, _eight_bits(path, files, layer)
            elif not _is_part(name, states, files):
                yield name, files.get(name)


SOURCE = BitsandbytesSource()


def _is_part(name: str, states: Mapping[str, str], files: TensorFiles) -> bool:
    owner, _, part = name.rpartition(".")
    return _STATE in name or (owner in states and part in _PARTS) or part in ("SCB", "weight_format")


def _eight_bits(path: Path, files: TensorFiles, layer: str) -> QuantizedWeight:
    from intaglio.quantizers.formats import parse_format
    from intaglio.quantizers.quantize import QuantizedWeight

    weight, largest = files.get(f"{layer}.weight"), files.get(f"{layer}.SCB")
    if weight.ndim != 2 or str(weight.dtype) != "torch.int8" or largest.shape != (len(weight),):
        raise UserError(f"{path}: {layer}: {weight.dtype} {tuple(weight.shape)} with SCB {tuple(largest.shape)}")
    scale = largest.float()[:, None] * (1 / 127)
    return QuantizedWeight(weight, scale, None, parse_format("int8"), tuple(weight.shape))


def _four_bits(
    path: Path, files: TensorFiles, name: str, state_name: str
) -> Iterator[tuple[str, QuantizedWeight | Tensor]]:
    """The weight as NF4 where blocks do not go over the ends of rows, else as float."""
    import torch

    from intaglio.quantizers.formats import NF4_LEVELS, parse_format
    from intaglio.quantizers.quantize import QuantizedWeight, dequantize

    layer = name.removesuffix(".weight")
    state = _read_state(path, files, state_name)
    block, shape = state["blocksize"], tuple(state["shape"])
    packed, levels = files.get(name), files.get(f"{name}.quant_map")
    if state["quant_type"] != "nf4" or not torch.equal(levels.float(), torch.tensor(NF4_LEVELS)):
        raise UserError(f"{path}: {layer} is {state['quant_type'][:20]!r} with its own levels; only NF4 is read")
    count = torch.Size(shape).numel()
    if packed.dtype != torch.uint8 or packed.numel() * 2 != count or len(shape) != 2:
        raise UserError(f"{path}: {layer}: {packed.numel()} bytes of {packed.dtype} for a weight of shape {shape}")
    scale = _scales(path, files, name, state)
    if scale.numel() != -(-count // block):
        raise UserError(f"{path}: {layer}: {scale.numel()} scales for {count} weights in blocks of {block}")
    packed = packed.flatten()
    swapped = (packed << 4) | (packed >> 4)
    fits = shape[1] % block == 0
    rows, columns = shape if fits else (1, count)
    format = parse_format("nf4" if block == 64 else f"nf4_g{block}")
    quantized = QuantizedWeight(swapped.view(rows, -1), scale.view(rows, -1), None, format, (rows, columns))
    yield (layer, quantized) if fits else (name, dequantize(quantized).view(shape))


def _scales(path: Path, files: TensorFiles, name: str, state: Mapping[str, Any]) -> Tensor:
    """float32 (blocks,), of one or two levels."""
    absmax = files.get(f"{name}.absmax")
    if f"{name}.nested_absmax" not in files:
        return absmax.float()
    outer, levels = files.get(f"{name}.nested_absmax"), files.get(f"{name}.nested_quant_map")
    size = state.get("nested_blocksize")
    if type(size) is not int or size < 1 or levels.numel() != 256 or str(absmax.dtype) != "torch.uint8":
        raise UserError(f"{path}: {name}: scales of scales in blocks of {size}, {levels.numel()} levels")
    if outer.numel() != -(-absmax.numel() // size):
        raise UserError(f"{path}: {name}: {outer.numel()} scales for {absmax.numel()} scales in blocks of {size}")
    values = levels.float()[absmax.flatten().long()]
    return values * outer.float().repeat_interleave(size)[: len(values)] + float(state.get("nested_offset", 0.0))


def _read_state(path: Path, files: TensorFiles, name: str) -> dict[str, Any]:
    entry = files.entry(name)
    if entry.dtype != "U8" or entry.num_bytes > _MAX_STATE_BYTES:
        raise UserError(f"{path}: {name[:80]} is {entry.dtype} of {entry.num_bytes} bytes, expected JSON")
    try:
        state = json.loads(bytes(files.get(name).numpy().tobytes()))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {name[:80]} is no JSON ({error}); was the copy complete?") from error
    good = (
        isinstance(state, dict)
        and isinstance(state.get("quant_type"), str)
        and type(state.get("blocksize")) is int
        and 8 <= state["blocksize"] <= 65536
        and state["blocksize"] % 8 == 0
        and isinstance(state.get("shape"), list)
        and all(type(size) is int and 0 < size < 2**31 for size in state["shape"])
        and type(state.get("nested_offset", 0.0)) in (int, float)
    )
    if not good:
        raise UserError(f"{path}: {name[:80]} does not say quant_type, blocksize and shape as bitsandbytes does")
    return state
