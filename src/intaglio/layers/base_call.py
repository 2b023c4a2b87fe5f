"""The base's product in one call, with the rounding of its operand or with codes that are there already."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from intaglio.kernels import binding
from intaglio.kernels.operators import watched
from intaglio.kernels.weight_product import LayerCall, weight_product


class BaseCall(LayerCall):
    def of_codes(self, codes: Tensor, scale: Tensor) -> Tensor:
        """The product of int8 codes (B, H, W, C), dense, and their scales (G,): what a call gives from their values."""
        kernels = binding.compiled(codes, self.weight.qdata)
        if kernels is None or watched():
            return weight_product(
                codes,
                self.weight,
                self.window,
                row_scale=scale,
                column_scale=self.column_scale,
                bias=self.bias,
                grad_input_size=self.grad_input_size,
                dtype=self.dtype,
            )
        out = codes.new_empty(self.out_shape, dtype=self.dtype)
        with self._lock:
            product = self._call.product
            product.x, product.row_scale, product.out = codes.data_ptr(), scale.data_ptr(), out.data_ptr()
            product.threads = torch.get_num_threads()
            kernels.intaglio_product(ctypes.byref(product))
        return out
