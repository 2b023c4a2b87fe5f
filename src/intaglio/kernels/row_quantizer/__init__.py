"""Float rows -> INT8 codes and one scale a group of rows."""

from intaglio.kernels.row_quantizer.kept import KEEPS, Keep, check_keep, kept, value_of
from intaglio.kernels.row_quantizer.rounding import dequantize_rows, quantize_rows

__all__ = ["KEEPS", "Keep", "check_keep", "dequantize_rows", "kept", "quantize_rows", "value_of"]
