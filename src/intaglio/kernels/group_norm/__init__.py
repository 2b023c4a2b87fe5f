"""Group norm over channels-last images, with SiLU behind it if asked."""

from intaglio.kernels.group_norm import cpu, reference  # noqa: F401
from intaglio.kernels.group_norm.op import group_norm

__all__ = ["group_norm"]
