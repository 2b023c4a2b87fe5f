"""INT8 x INT8 -> INT32, exactly."""

from intaglio.kernels.int8_matmul import cpu, reference  # noqa: F401
from intaglio.kernels.int8_matmul.op import MAX_REDUCTION, int8_matmul

__all__ = ["MAX_REDUCTION", "int8_matmul"]
