"""The small products of a low-rank pair in INT8 x INT8 -> INT32, each fused with the roundings beside it."""

from intaglio.kernels.low_rank import cpu, reference  # noqa: F401
from intaglio.kernels.low_rank.op import low_rank_update, rank_product, token_gradient

__all__ = ["low_rank_update", "rank_product", "token_gradient"]
