"""GGUF: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K, and float types.

Source: ggml-org/ggml `src/ggml-quants.c` (dequantize_row_*), `ggml-common.h` (blocks). Codes are repacked as they are;
the two-level scales of K types become one float32 a group, the very product that ggml makes, so that the weights are
equal bit for bit in float32. In memory a K type takes more than in its file: 6 bits a weight for Q4_K, 10 for Q5_K and
Q6_K.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intaglio.checkpoints.gguf_file import BLOCKS, MAGIC, GgufTensor, read_gguf_header
from intaglio.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from intaglio.quantizers.quantize import QuantizedWeight

_SIZES = {name: (per_block, block_bytes) for name, per_block, block_bytes in BLOCKS.values()}


class GgufSource:
    name = "gguf"
    summary = "GGUF files with Q8_0, Q4_0, Q4_K, Q5_K, Q6_K and their kin"

    def claims(self, path: Path, config: Mapping[str, Any] | None) -> bool:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(4) == MAGIC

    def weights(self, path: Path, config: Mapping[str, Any] | None) -> Iterator[tuple[str, QuantizedWeight | Tensor]]:
        header = read_gguf_header(path)
        unknown = sorted({t.type for t in header.tensors.values()} - _UNPACK.keys() - _FLOATS.keys())
        if unknown:
            raise UserError(
                f"{path}: has tensors of type {', '.join(unknown)}; read are {', '.join([*_UNPACK, *_FLOATS])}. Take "
                "another file of this model"
            )
        for name, tensor in header.tensors.items():
            shape = header.values.get(f"comfy.gguf.orig_shape.{name}")
            if isinstance(shape, list):
                tensor = _reshaped(path, name, tensor, tuple(shape))
            if tensor.type in _FLOATS:
                yield name, _read_float(path, tensor)
            elif len(tensor.shape) == 2 and name.endswith(".weight"):
                yield name.removesuffix(".weight"), _read_quantized(path, tensor)
            else:  # of an odd shape: few, and small
                yield name, _dequantized(path, tensor)


def _reshaped(path: Path, name: str, tensor: GgufTensor, shape: tuple[int, ...]) -> GgufTensor:
    """ComfyUI-GGUF's own entry: the shape before it was flattened for the sake of blocks."""
    import math

    if any(type(size) is not int or size < 1 for size in shape) or math.prod(shape) != math.prod(tensor.shape):
        raise UserError(f"{path}: {name[:60]!r} of shape {tensor.shape} cannot be {shape}; was the file edited?")
    return GgufTensor(tensor.type, shape, tensor.start, tensor.num_bytes)


def _blocks(path: Path, tensor: GgufTensor) -> np.ndarray:
    """uint8 (blocks, bytes of a block), mapped from the file."""
    import numpy as np

    size = _SIZES[tensor.type][1]
    mapped = np.memmap(path, np.uint8, "r", tensor.start, (tensor.num_bytes,))
    return mapped.reshape(-1, size)


def _read_float(path: Path, tensor: GgufTensor) -> Tensor:
    import numpy as np
    import torch

    data = np.fromfile(path, np.uint8, tensor.num_bytes, offset=tensor.start)
    return torch.from_numpy(data).view(getattr(torch, _FLOATS[tensor.type])).reshape(tensor.shape)


def _read_quantized(path: Path, tensor: GgufTensor) -> QuantizedWeight:
    import torch

    from intaglio.quantizers.formats import parse_format
    from intaglio.quantizers.packing import pack_nibbles
    from intaglio.quantizers.quantize import QuantizedWeight

    name, unpack = _UNPACK[tensor.type]
    format = parse_format(name)
    rows, columns = tensor.shape
    codes, scale, minimum = unpack(_blocks(path, tensor))
    qdata = torch.from_numpy(codes.reshape(rows, columns))
    qdata = pack_nibbles(qdata) if format.bits == 4 else qdata
    groups = columns // (format.group_size or columns)
    return QuantizedWeight(
        qdata,
        torch.from_numpy(scale).reshape(rows, groups),
        None if minimum is None else torch.from_numpy(minimum).reshape(rows, groups),
        format,
        (rows, columns),
    )


def _dequantized(path: Path, tensor: GgufTensor) -> Tensor:
    from intaglio.quantizers.quantize import dequantize

    per_row = tensor.shape[-1]
    rows = tensor.num_bytes // _SIZES[tensor.type][1] * _SIZES[tensor.type][0] // per_row
    if per_row % _SIZES[tensor.type][0]:  # a block goes over the end of a row
        per_row, rows = per_row * rows, 1
    flat = GgufTensor(tensor.type, (rows, per_row), tensor.start, tensor.num_bytes)
    return dequantize(_read_quantized(path, flat)).reshape(tensor.shape)


def _half(blocks: np.ndarray, at: int) -> np.ndarray:
    import numpy as np

    return blocks[:, at : at + 2].copy().view(np.float16).astype(np.float32)


def _nibbles(quants: np.ndarray) -> np.ndarray:
    """(B, n) -> (B, 2n): all low ones, then all high ones."""
    import numpy as np

    return np.concatenate([quants & 0xF, quants >> 4], axis=1).astype(np.int8)


def _q8_0(blocks: np.ndarray) -> Any:
    import numpy as np

    return blocks[:, 2:].copy().view(np.int8), _half(blocks, 0), None


def _q4_0(blocks: np.ndarray) -> Any:
    return _nibbles(blocks[:, 2:]) - 8, _half(blocks, 0), None


def _q4_1(blocks: np.ndarray) -> Any:
    return _nibbles(blocks[:, 4:]), _half(blocks, 0), -_half(blocks, 2)


def _fifth_bits(quants: np.ndarray) -> np.ndarray:
    """(B, 4) bytes -> (B, 32) of 0 and 16."""
    import numpy as np

    return (np.unpackbits(quants, axis=1, bitorder="little") << 4).astype(np.int8)


def _q5_0(blocks: np.ndarray) -> Any:
    return (_nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])) - 16, _half(blocks, 0), None


def _q5_1(blocks: np.ndarray) -> Any:
    return _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8]), _half(blocks, 0), -_half(blocks, 2)


def _k_scales(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 (B, 8) scales and minima of the 8 groups: 6 bits each in 12 bytes, times the block's two halves."""
    import numpy as np

    packed = blocks[:, 4:16]
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 63, (third & 0xF) | ((first >> 6) << 4)], axis=1)
    minima = np.concatenate([second & 63, (third >> 4) | ((second >> 6) << 4)], axis=1)
    return _half(blocks, 0) * scales.astype(np.float32), _half(blocks, 2) * minima.astype(np.float32)


def _q4_k(blocks: np.ndarray) -> Any:
    scale, minimum = _k_scales(blocks)
    quants = blocks[:, 16:].reshape(-1, 32)  # 64 weights a row: low nibbles, then high ones
    return _nibbles(quants).reshape(len(blocks), 256), scale, minimum


def _q5_k(blocks: np.ndarray) -> Any:
    import numpy as np

    scale, minimum = _k_scales(blocks)
    low = _nibbles(blocks[:, 48:].reshape(-1, 32)).reshape(-1, 8, 32)
    high = (blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[None, :, None]) & 1
    return (low | (high << 4).astype(np.int8)).reshape(len(blocks), 256), scale, minimum


def _q6_k(blocks: np.ndarray) -> Any:
    import numpy as np

    low, high = blocks[:, :128].reshape(-1, 2, 64), blocks[:, 128:192].reshape(-1, 2, 1, 32)
    low = np.concatenate([low & 0xF, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    high = (high >> np.array([0, 2, 4, 6], dtype=np.uint8)[None, None, :, None]) & 3
    codes = ((low | (high << 4)).astype(np.int8) - 32).reshape(len(blocks), 256)
    scales = blocks[:, 192:208].copy().view(np.int8).astype(np.float32)
    return codes, _half(blocks, 208) * scales, None


_FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
_UNPACK: dict[str, tuple[str, Callable[[np.ndarray], Any]]] = {
    "Q8_0": ("int8_g32", _q8_0),
    "Q4_0": ("int4_g32", _q4_0),
    "Q4_1": ("int4_g32_min", _q4_1),
    "Q5_0": ("int5_g32", _q5_0),
    "Q5_1": ("int5_g32_min", _q5_1),
    "Q4_K": ("int4_g32_min", _q4_k),
    "Q5_K": ("int5_g32_min", _q5_k),
    "Q6_K": ("int6_g16", _q6_k),
}
"""ggml's type -> the format that holds it, and its unpacking."""

SOURCE = GgufSource()
