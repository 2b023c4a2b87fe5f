"""Float rows -> codes of 2 to 8 bits, with float or power-of-two scales, by groups of rows or by columns."""

from intaglio.kernels.codes import cpu, reference  # noqa: F401
from intaglio.kernels.codes.op import codes_by_column, codes_by_group, pair_codes

__all__ = ["codes_by_column", "codes_by_group", "pair_codes"]
