"""INT8 codes times a frozen weight, in either direction, for Linear and Conv2d."""

from intaglio.kernels.weight_product import reference, by_torch, cpu  # noqa: F401, I001  registered in this order
from intaglio.kernels.weight_product.by_torch import is_exact_by_int_mm, is_plain
from intaglio.kernels.weight_product.layer import LayerCall, LayerResult, Pair
from intaglio.kernels.weight_product.op import weight_product
from intaglio.kernels.weight_product.weight import IntegerWeight, integer_weight
from intaglio.kernels.weight_product.window import Window

__all__ = [
    "IntegerWeight",
    "LayerCall",
    "LayerResult",
    "Pair",
    "Window",
    "integer_weight",
    "is_exact_by_int_mm",
    "is_plain",
    "weight_product",
]
