"""Softmax attention in bfloat16, forward and backward."""

from intaglio.kernels.attention.flash import attention
from intaglio.kernels.attention.operators import is_compiled

__all__ = ["attention", "is_compiled"]
