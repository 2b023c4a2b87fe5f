"""GELU, its tanh twin and SiLU, alone or as a gate."""

from intaglio.kernels.gated import cpu, reference  # noqa: F401
from intaglio.kernels.gated.op import FUNCTIONS, activation, gated_activation

__all__ = ["FUNCTIONS", "activation", "gated_activation"]
