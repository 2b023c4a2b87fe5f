"""A frozen layer and its low-rank pair, all products in integers, in one call a direction."""

from intaglio.kernels.integer_lora.call import IntegerLoraCall

__all__ = ["IntegerLoraCall"]
