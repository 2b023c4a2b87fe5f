"""Sums over tokens: what the gradients of scales are made of."""

from intaglio.kernels.column_sums import cpu, reference  # noqa: F401
from intaglio.kernels.column_sums.op import column_sums

__all__ = ["column_sums"]
