"""Float rows -> INT8 codes and one scale a group of rows."""

from intaglio.kernels.row_quantizer import reference, by_torch, cpu  # noqa: F401, I001  registered in this order
from intaglio.kernels.row_quantizer.kept import KEEPS, Keep, check_keep, codes_of, room_for_codes, value_of
from intaglio.kernels.row_quantizer.op import dequantize_rows, quantize_rows

__all__ = ["KEEPS", "Keep", "check_keep", "codes_of", "dequantize_rows", "quantize_rows", "room_for_codes", "value_of"]
