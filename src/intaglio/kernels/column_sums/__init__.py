"""Sums over tokens: what the gradients of scales are made of."""

from intaglio.kernels.column_sums.sums import column_sums

__all__ = ["column_sums"]
