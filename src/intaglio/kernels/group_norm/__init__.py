"""Group norm over channels-last pictures, with SiLU behind it if asked."""

from intaglio.kernels.group_norm.norm import group_norm

__all__ = ["group_norm"]
