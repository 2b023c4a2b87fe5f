"""Layer norm of rows."""

from intaglio.kernels.layer_norm.norm import layer_norm

__all__ = ["layer_norm"]
