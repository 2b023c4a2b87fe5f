"""ComfyUI's quantized layers: `int8_tensorwise`, with `convrot` or without, and `asym_w4a8_int8`.

Source: Comfy-Org/comfy-kitchen `tensor/int8.py`, `tensor/w4a8_int8.py`, `backends/eager/`. Beside `<layer>.weight` lies
`<layer>.comfy_quant`, UTF-8 JSON in bytes. INT8 stays as it is. The 4-bit codes of `asym_w4a8_int8` stand for INT8
values, by a table of 16 levels and a scale a group of 16; they are unpacked to those, twice the size in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intaglio.checkpoints.sources.files import TensorFiles
from intaglio.errors import UserError
from intaglio.safetensors_header import read_safetensors_header

if TYPE_CHECKING:
    from torch import Tensor

    from intaglio.quantizers.quantize import QuantizedWeight

_MARK = ".comfy_quant"
_PARTS = ("weight", "weight_scale", "weight_s_rel", "weight_s_channel", "weight_codebook", "weight_correction")
_MAX_MARK_BYTES = 10_000


class ComfyUISource:
    name = "comfyui"
    summary = "ComfyUI's int8_tensorwise (plain and convrot) and asym_w4a8_int8 files"

    def claims(self, path: Path, config: Mapping[str, Any] | None) -> bool:
        if path.suffix != ".safetensors" or not path.is_file():
            return False
        return any(name.endswith(_MARK) for name in read_safetensors_header(path).tensors)

    def weights(self, path: Path, config: Mapping[str, Any] | None) -> Iterator[tuple[str, QuantizedWeight | Tensor]]:
        files = TensorFiles(path)
        layers = {name.removesuffix(_MARK) for name in files if name.endswith(_MARK)}
        for name in files:
            layer, _, part = name.rpartition(".")
            if layer not in layers:
                yield name, files.get(name)
            elif part == "weight":
                yield layer, _read_layer(path, files, layer)
            elif part not in _PARTS and not name.endswith(_MARK) and part != "input_scale":
                yield name, files.get(name)


SOURCE = ComfyUISource()


def _read_layer(path: Path, files: TensorFiles, layer: str) -> QuantizedWeight:
    mark = _read_mark(path, files, layer)
    kind = mark.get("format")
    if kind == "int8_tensorwise":
        return _int8(path, files, layer, mark)
    if kind == "asym_w4a8_int8":
        return _w4a8(path, files, layer, mark)
    raise UserError(
        f"{path}: {layer} is {str(kind)[:40]!r}; read are int8_tensorwise and asym_w4a8_int8. Take another file of "
        "this model"
    )


def _int8(path: Path, files: TensorFiles, layer: str, mark: Mapping[str, Any]) -> QuantizedWeight:
    import torch

    from intaglio.quantizers.formats import parse_format
    from intaglio.quantizers.quantize import QuantizedWeight

    weight, scale = files.get(f"{layer}.weight"), files.get(f"{layer}.weight_scale").float()
    rotation = _rotation(path, layer, mark, weight.shape[-1]) if mark.get("convrot") else None
    if weight.dtype != torch.int8 or weight.ndim != 2 or scale.numel() not in (1, len(weight)):
        raise UserError(f"{path}: {layer}: {weight.dtype} {tuple(weight.shape)} with scales {tuple(scale.shape)}")
    scale = scale.reshape(-1, 1).expand(len(weight), 1).contiguous()
    format = parse_format("int8" if rotation is None else f"int8_rot{rotation}")
    return QuantizedWeight(weight, scale, None, format, tuple(weight.shape))


def _w4a8(path: Path, files: TensorFiles, layer: str, mark: Mapping[str, Any]) -> QuantizedWeight:
    import torch

    from intaglio.quantizers.formats import parse_format
    from intaglio.quantizers.packing import unpack_nibbles
    from intaglio.quantizers.quantize import QuantizedWeight

    if f"{layer}.weight_correction" in files:
        raise UserError(f"{path}: {layer} has a correction a group, which is not read; take another file of this model")
    packed, channel = files.get(f"{layer}.weight"), files.get(f"{layer}.weight_s_channel").float()
    relative, levels = files.get(f"{layer}.weight_s_rel"), files.get(f"{layer}.weight_codebook").float()
    if relative.dtype == torch.uint8:
        relative = relative.view(torch.float8_e4m3fn)
    relative = relative.float()
    if packed.dtype not in (torch.int8, torch.uint8) or packed.ndim != 2 or relative.ndim != 2 or levels.numel() != 16:
        raise UserError(f"{path}: {layer}: {packed.dtype} {tuple(packed.shape)} with {levels.numel()} levels")
    rows, columns = len(packed), 2 * packed.shape[1]
    groups = relative.shape[1]
    if len(relative) != rows or groups < 1 or columns % groups or channel.numel() != rows:
        raise UserError(f"{path}: {layer}: scales {tuple(relative.shape)} and {channel.numel()} for {rows} x {columns}")
    rotation = _rotation(path, layer, mark, columns)
    codes = unpack_nibbles(packed.view(torch.uint8), columns, signed=False).view(rows, groups, -1)
    values = (levels.flatten()[codes.int()] * relative[..., None]).round_().clamp_(-127, 127).to(torch.int8)
    format = parse_format(f"int8_rot{rotation}")
    return QuantizedWeight(values.view(rows, columns), channel.reshape(-1, 1), None, format, (rows, columns))


def _rotation(path: Path, layer: str, mark: Mapping[str, Any], columns: int) -> int:
    from intaglio.quantizers.formats import check_rotation

    size = mark.get("convrot_groupsize", 256)
    if type(size) is not int or size < 4 or columns % size:
        raise UserError(f"{path}: {layer}: {columns} inputs rotated in groups of {str(size)[:20]}")
    check_rotation(size)
    return size


def _read_mark(path: Path, files: TensorFiles, layer: str) -> dict[str, Any]:
    name = layer + _MARK
    entry = files.entry(name)
    if entry.dtype not in ("U8", "I8") or entry.num_bytes > _MAX_MARK_BYTES:
        raise UserError(f"{path}: {name[:80]} is {entry.dtype} of {entry.num_bytes} bytes, expected JSON")
    try:
        mark = json.loads(files.get(name).numpy().tobytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {name[:80]} is no JSON ({error}); was the copy complete?") from error
    if not isinstance(mark, dict):
        raise UserError(f"{path}: {name[:80]} is a {type(mark).__name__}, expected an object")
    return mark
