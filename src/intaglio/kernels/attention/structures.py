"""The C structures of `cpu/attention.h`, field by field."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_float, c_int64, c_void_p

from torch import Tensor


class Tokens(ctypes.Structure):
    _fields_ = (("data", c_void_p), ("batch_stride", c_int64), ("head_stride", c_int64), ("token_stride", c_int64))


class Attention(ctypes.Structure):
    _fields_ = (
        *((name, Tokens) for name in ("q", "k", "v", "out")),
        ("lse", c_void_p),
        *((name, c_int64) for name in ("batch", "heads", "queries", "keys", "head_dim")),
        ("scale", c_float),
        ("threads", c_int64),
    )


class AttentionGradient(ctypes.Structure):
    _fields_ = (
        ("forward", POINTER(Attention)),
        *((name, Tokens) for name in ("grad_out", "grad_q", "grad_k", "grad_v")),
    )


def tokens_of(x: Tensor) -> Tokens:
    """Of a tensor (batch, heads, tokens, head_dim) whose last axis is contiguous. The caller keeps it alive."""
    return Tokens(x.data_ptr(), *x.stride()[:3])
