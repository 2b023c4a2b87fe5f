"""Float rows -> INT8 codes and one scale a group of rows."""

from intaglio.kernels.row_quantizer.rounding import dequantize_rows, quantize_rows

__all__ = ["dequantize_rows", "quantize_rows"]
