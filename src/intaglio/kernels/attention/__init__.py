"""Softmax attention in bfloat16, forward and backward."""

from intaglio.kernels.attention.flash import attention, is_compiled

__all__ = ["attention", "is_compiled"]
