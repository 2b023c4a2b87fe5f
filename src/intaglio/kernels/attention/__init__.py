"""Softmax attention in bfloat16, forward and backward."""

from intaglio.kernels.attention import cpu, reference  # noqa: F401
from intaglio.kernels.attention.cpu import is_compiled
from intaglio.kernels.attention.flash import attention

__all__ = ["attention", "is_compiled"]
