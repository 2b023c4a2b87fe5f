"""GELU, its tanh twin and SiLU, alone or as a gate."""

from intaglio.kernels.gated.activation import activation, gated_activation
from intaglio.kernels.gated.definition import FUNCTIONS

__all__ = ["FUNCTIONS", "activation", "gated_activation"]
