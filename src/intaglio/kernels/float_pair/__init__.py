"""The products of a float low-rank pair with activations in bfloat16."""

from intaglio.kernels.float_pair import cpu, reference  # noqa: F401
from intaglio.kernels.float_pair.op import pair_down, pair_sums, pair_up

__all__ = ["pair_down", "pair_sums", "pair_up"]
