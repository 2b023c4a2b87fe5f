"""Layer norm of rows."""

from intaglio.kernels.layer_norm import cpu, reference  # noqa: F401
from intaglio.kernels.layer_norm.op import layer_norm

__all__ = ["layer_norm"]
