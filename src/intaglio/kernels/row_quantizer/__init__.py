"""Float rows -> INT8 codes and one scale a group of rows."""

from intaglio.kernels.row_quantizer.kept import KEEPS, Keep, check_keep, codes_of, room_for_codes, value_of
from intaglio.kernels.row_quantizer.rounding import dequantize_rows, quantize_rows

__all__ = ["KEEPS", "Keep", "check_keep", "codes_of", "dequantize_rows", "quantize_rows", "room_for_codes", "value_of"]
