"""The C structures of `cpu/abi.h`, `norms.h` and `gated.h`, field by field, and the loaded library."""

from __future__ import annotations

import ctypes
import os
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor

from intaglio.errors import Slower, UnknownChoice, UserError
from intaglio.kernels import build

LEVELS = ("avx2", "avxvnni", "avx512vl", "avx512", "avx512bf16")
"""What the compiled kernels may use of the processor, as in `cpu/level.h`, the best last; "avx512" includes VNNI."""
PATHS = (*LEVELS, "torch")
"""What `INTAGLIO_KERNELS` may force: the compiled kernels with these instructions, or torch alone."""


def structure(name: str, **fields: Any) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


_pointer, _int64 = ctypes.c_void_p, ctypes.c_int64
_window_fields = (
    "images in_height in_width out_height out_width kernel_height kernel_width "
    "stride_height stride_width pad_height pad_width dilation_height dilation_width"
)

Weight = structure(
    "Weight", codes=_pointer, bits=_int64, row_bytes=_int64, out=_int64, taps=_int64, in_=_int64, zero_point=_pointer,
    ratio=_pointer, levels=_pointer, groups=_int64, group_size=_int64,
)  # fmt: skip
Window = structure("Window", **dict.fromkeys(_window_fields.split(), _int64))
Product = structure(
    "Product", x=_pointer, x_stride=_int64, weight=ctypes.POINTER(Weight), window=ctypes.POINTER(Window),
    grad_input=_int64, out_type=_int64, out=_pointer, out_stride=_int64, row_scale=_pointer, rows_per_scale=_int64,
    column_scale=_pointer, bias=_pointer, threads=_int64,
)  # fmt: skip
Rows = structure(
    "Rows", x=_pointer, x_type=_int64, x_stride=_int64, x_group_stride=_int64, groups=_int64, rows=_int64,
    columns=_int64, factor=_pointer, samples=_int64, stochastic=_int64, seed=ctypes.c_uint64, codes=_pointer,
    scale=_pointer, threads=_int64,
)  # fmt: skip
ColumnSums = structure(
    "ColumnSums", a=_pointer, a_type=_int64, a_stride=_int64, b=_pointer, scale=_pointer, b_type=_int64,
    rows_per_scale=_int64, samples=_int64, rows=_int64, columns=_int64, sums=_pointer, threads=_int64,
)  # fmt: skip
GroupNorm = structure(
    "GroupNorm", x=_pointer, type=_int64, weight=_pointer, bias=_pointer, affine_type=_int64, samples=_int64,
    rows=_int64, channels=_int64, groups=_int64, eps=ctypes.c_double, silu=_int64, y=_pointer, mean=_pointer,
    rstd=_pointer, codes=_pointer, scale=_pointer, threads=_int64,
)  # fmt: skip
GroupNormGrad = structure(
    "GroupNormGrad", grad=_pointer, x=_pointer, type=_int64, scale=_pointer, weight=_pointer, bias=_pointer,
    affine_type=_int64, mean=_pointer, rstd=_pointer, samples=_int64, rows=_int64, channels=_int64, groups=_int64,
    silu=_int64, grad_x=_pointer, grad_weight=_pointer, grad_bias=_pointer, threads=_int64,
)  # fmt: skip
LayerNorm = structure(
    "LayerNorm", x=_pointer, type=_int64, weight=_pointer, bias=_pointer, affine_type=_int64, rows=_int64,
    columns=_int64, eps=ctypes.c_double, y=_pointer, mean=_pointer, rstd=_pointer, codes=_pointer, scale=_pointer,
    threads=_int64,
)  # fmt: skip
LayerNormGrad = structure(
    "LayerNormGrad", grad=_pointer, x=_pointer, type=_int64, scale=_pointer, weight=_pointer, affine_type=_int64,
    mean=_pointer, rstd=_pointer, rows=_int64, columns=_int64, grad_x=_pointer, threads=_int64,
)  # fmt: skip
Gated = structure(
    "Gated", x=_pointer, type=_int64, rows=_int64, columns=_int64, function=_int64, gated=_int64, y=_pointer,
    codes=_pointer, scale=_pointer, threads=_int64,
)  # fmt: skip
GatedGrad = structure(
    "GatedGrad", grad=_pointer, x=_pointer, type=_int64, scale=_pointer, rows=_int64, columns=_int64, function=_int64,
    gated=_int64, grad_x=_pointer, threads=_int64,
)  # fmt: skip

TYPES = {torch.int32: 0, torch.float32: 1, torch.bfloat16: 2, torch.int8: 3}


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's data lies. The caller keeps the tensor alive."""
    return None if tensor is None else tensor.data_ptr()


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels at their level, or None where torch alone computes: that is said once, unless asked for.

    Raises:
        UserError: `INTAGLIO_KERNELS` names no path, or one that is not there.
    """
    wanted = os.environ.get("INTAGLIO_KERNELS")
    if wanted is not None and wanted not in PATHS:
        raise UnknownChoice("INTAGLIO_KERNELS", wanted, PATHS)
    if wanted == "torch":
        return None
    loaded, reason = _load()
    if loaded is None:
        if wanted is not None:
            raise UserError(f"INTAGLIO_KERNELS={wanted}, but {reason}")
        warnings.warn(f"integer products run on torch alone, at half the speed: {reason}", Slower, stacklevel=2)
        return None
    there = [name for level, name in enumerate(LEVELS) if loaded.intaglio_has_level(level)]
    if wanted is not None and wanted not in there:
        raise UserError(f"INTAGLIO_KERNELS={wanted}, but this processor has {', '.join(there)}")
    _use(loaded, wanted or there[-1])
    return loaded


def _use(kernels: ctypes.CDLL, name: str) -> None:
    kernels.intaglio_set_level(LEVELS.index(name))
    _level[0] = LEVELS.index(name)


_level = [0]


def path_in_use() -> str:
    """One of `PATHS`."""
    return "torch" if library() is None else LEVELS[_level[0]]


def reaches(level: str) -> bool:
    """Whether compiled code for `level` may run: of "avx512" and above, not of one that only some of those have."""
    return library() is not None and _level[0] >= LEVELS.index(level)


def set_level(name: str) -> None:
    """Use the compiled kernels with these instructions from now on: for tests and benchmarks.

    Raises:
        UserError: the kernels or the processor do not have them.
    """
    kernels = library()
    if kernels is None or not kernels.intaglio_has_level(LEVELS.index(name)):
        raise UserError(f"the kernels cannot use {name} here")
    _use(kernels, name)


def _load() -> tuple[ctypes.CDLL | None, str]:
    file = build.SOURCES / build.LIBRARY
    again = "with a C++ compiler installed, run: python -m intaglio.kernels.build"
    if not file.exists():
        return None, f"the compiled kernels are missing; {again}"
    try:
        loaded = ctypes.CDLL(str(file))
    except OSError as error:
        return None, f"the compiled kernels do not load ({error}); {again}"
    if not hasattr(loaded, "intaglio_sources"):
        return None, f"{file.name} is another library of that name; {again}"
    loaded.intaglio_sources.restype = ctypes.c_char_p
    if loaded.intaglio_sources().decode() != build.sources_hash():
        return None, f"the compiled kernels are older than their sources; {again}"
    if not loaded.intaglio_has_level(0):
        return None, "this processor has no AVX2"
    loaded.intaglio_set_level.restype = None
    loaded.intaglio_int8_peak.restype = ctypes.c_int64
    loaded.intaglio_int8_peak.argtypes = [ctypes.c_int64]
    void = ("product", "quantize_rows", "column_sums", "attention", "attention_gradient", "attention_int8")
    for name in void:
        getattr(loaded, f"intaglio_{name}").restype = None
    return loaded, ""


def compiled(*tensors: Tensor | None) -> ctypes.CDLL | None:
    """The library, where these tensors are in its reach: on the CPU."""
    return library() if all(t is None or t.device.type == "cpu" for t in tensors) else None


def written(tensor: Tensor) -> None:
    """Tell autograd that a call has changed `tensor` in place: who saved it for a gradient must not use it."""
    if not tensor.is_inference():
        torch.autograd.graph.increment_version(tensor)


def compiled_at(level: str, *tensors: Tensor | None) -> ctypes.CDLL | None:
    """The library, where it may use the instructions of `level` too and can read every tensor's dtype."""
    if not reaches(level) or any(t is not None and t.dtype not in TYPES for t in tensors):
        return None
    return compiled(*tensors)


def weight_of(
    qdata: Tensor,
    shape: tuple[int, int, int],
    zero_point: Tensor | None = None,
    ratio: Tensor | None = None,
    levels: Tensor | None = None,
    group_size: int | None = None,
) -> ctypes.Structure:
    """The structure of a frozen weight (O, taps, I), uint8 (two codes a byte) or int8, rows of contiguous codes."""
    out, taps, channels = shape
    size = max(1, taps * channels if group_size is None else group_size)
    return Weight(
        codes=address(qdata), bits=4 if qdata.dtype == torch.uint8 else 8, row_bytes=qdata.stride(0), out=out,
        taps=taps, in_=channels, zero_point=address(zero_point), ratio=address(ratio), levels=address(levels),
        groups=-(-taps * channels // size), group_size=size,
    )  # fmt: skip


def multiply(
    weight: ctypes.Structure,
    window: ctypes.Structure,
    x: Tensor,
    x_stride: int,
    grad_input: bool,
    out: Tensor,
    row_scale: Tensor | None = None,
    column_scale: Tensor | None = None,
    bias: Tensor | None = None,
) -> None:
    """Call the compiled product. `out` (..., columns) is dense: int32, or float32 or bfloat16 with the scales."""
    columns = out.shape[-1]
    rows = out.numel() // columns if columns else 0
    call = Product(
        x=address(x), x_stride=x_stride, weight=ctypes.pointer(weight), window=ctypes.pointer(window),
        grad_input=grad_input, out_type=TYPES[out.dtype], out=address(out), out_stride=columns,
        row_scale=address(row_scale), rows_per_scale=1 if row_scale is None else max(1, rows // len(row_scale)),
        column_scale=address(column_scale), bias=address(bias), threads=torch.get_num_threads(),
    )  # fmt: skip
    kernels = library()
    assert kernels is not None
    kernels.intaglio_product(ctypes.byref(call))
