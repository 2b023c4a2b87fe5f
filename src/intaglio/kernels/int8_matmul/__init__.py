"""INT8 x INT8 -> INT32, exactly."""

from intaglio.kernels.int8_matmul.checks import MAX_REDUCTION
from intaglio.kernels.int8_matmul.product import int8_matmul, int8_matmul_transposed

__all__ = ["MAX_REDUCTION", "int8_matmul", "int8_matmul_transposed"]
