"""A frozen layer in one direction: rounding, product and a low-rank pair's share in one call.

It computes what `quantize_rows`, `weight_product`, `pair_down` and `pair_up` compute one after the other, bit for bit,
and does so by calling them where something watches the operators. In a training step their arguments are laid out anew
hundreds of times, in Python that has fallen out of the processor's caches since the last layer: here that is done once
for a shape.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any, NamedTuple

import torch
from torch import Tensor

from intaglio.kernels import binding
from intaglio.kernels.float_pair import pair_down, pair_up
from intaglio.kernels.float_pair.cpu import FloatPair
from intaglio.kernels.operators import watched
from intaglio.kernels.product_call import Product, weight_of
from intaglio.kernels.product_call import Window as CWindow
from intaglio.kernels.row_quantizer import quantize_rows
from intaglio.kernels.row_quantizer.cpu import Rows
from intaglio.kernels.structures import structure
from intaglio.kernels.weight_product.op import check_product, weight_product
from intaglio.kernels.weight_product.weight import IntegerWeight
from intaglio.kernels.weight_product.window import Window

_Layer = structure("Layer")


class Pair(NamedTuple):
    """A low-rank pair in the direction of the product: `out += (x (scale_down down)^T) (scale_up up)`."""

    down: Tensor
    """float32 (R, C), any strides."""
    up: Tensor
    """float32 (R, columns of the result), any strides."""
    scale_down: float
    scale_up: float


class LayerResult(NamedTuple):
    codes: Tensor
    """int8, of the shape of x."""
    scale: Tensor
    """float32 (G,)."""
    out: Tensor
    h: Tensor | None
    """(M, R) in the dtype of x, with a pair."""


class LayerCall:
    """The product for inputs of one shape and dtype."""

    made_from: tuple[object, ...]
    """What whoever keeps the call compares, to know whether it is still the layer's."""
    structure: Any
    """`Layer` of `native/layer.h`, laid out but for the tensors of one call."""

    def __init__(
        self,
        weight: IntegerWeight,
        window: Window,
        shape_BHWC: tuple[int, ...],
        dtype: torch.dtype,
        *,
        groups: int,
        column_scale: Tensor,
        bias: Tensor | None,
        grad_input_size: tuple[int, int] | None,
    ):
        """As `weight_product`; `groups` is the number of equal runs of rows of x that share a scale.

        Raises:
            ValueError: a shape that does not fit, or a reduction longer than int32 holds.
        """
        batch, height, width, channels = shape_BHWC
        self.made_from = ()
        self._lock = threading.Lock()  # the structures are one thread's at a time
        self.weight, self.window, self.shape, self.dtype, self.groups = weight, window, shape_BHWC, dtype, groups
        self.column_scale, self.grad_input_size = column_scale.float().contiguous(), grad_input_size
        self.bias = None if bias is None else bias.detach().float().contiguous()
        scales = (groups, len(column_scale), None if bias is None else len(bias))
        size = check_product(shape_BHWC, weight, window, scales, grad_input_size)
        back = grad_input_size is not None
        self.out_shape = (batch, *size, weight.shape[2] if back else weight.shape[0])
        rows, out_rows = batch * height * width, batch * size[0] * size[1]
        self._rows_shape = (groups, rows // max(1, groups), channels)
        self._structures = (
            weight_of(weight.qdata, weight.shape, weight.zero_point, weight.ratio, weight.levels, weight.group_size),
            CWindow(batch, height, width, *size, *window.kernel, *window.stride, *window.padding, *window.dilation),
        )
        self.structure = _Layer(
            rows=Rows(
                x_type=binding.TYPES[dtype], groups=groups, rows=self._rows_shape[1], columns=channels,
                x_stride=channels, x_group_stride=self._rows_shape[1] * channels,
            ),
            product=Product(
                x_stride=channels, weight=ctypes.addressof(self._structures[0]),
                window=ctypes.addressof(self._structures[1]), grad_input=back, out_type=binding.TYPES[dtype],
                out_stride=self.out_shape[3], rows_per_scale=max(1, out_rows // max(1, groups)),
                column_scale=self.column_scale.data_ptr(), bias=binding.address(self.bias),
            ),
            down=FloatPair(rows=rows, columns=channels, x_type=2, x_stride=channels),
            up=FloatPair(rows=out_rows, columns=self.out_shape[3], x_type=2, x_stride=self.out_shape[3]),
        )  # fmt: skip

    def __call__(
        self, x: Tensor, factor: Tensor | None, pair: Pair | None = None, out_factor: Tensor | None = None
    ) -> LayerResult:
        """
        Args:
            x: float32 or bfloat16, of the call's shape and dtype, any strides.
            factor: float32 (S, C), multiplied in before rounding; None for 1.
            out_factor: float32 (columns of the result), multiplied into `column_scale`; None for 1.
        """
        column_scale = self.column_scale if out_factor is None else self.column_scale * out_factor
        kernels = binding.compiled(x, self.weight.qdata, factor, out_factor)
        if kernels is None or watched() or not x.numel() or (pair is not None and not _fits(x, pair)):
            return self._by_operators(x, factor, pair, column_scale)
        factor = None if factor is None else factor.contiguous()
        with self._lock:
            return self._at_once(x.contiguous(), factor, pair, column_scale)

    def _at_once(self, x: Tensor, factor: Tensor | None, pair: Pair | None, column_scale: Tensor) -> LayerResult:
        codes, scale = x.new_empty(self.shape, dtype=torch.int8), x.new_empty(self.groups, dtype=torch.float32)
        out, h = x.new_empty(self.out_shape), None
        call, threads = self.structure, torch.get_num_threads()
        rows, product = call.rows, call.product
        rows.x, rows.codes, rows.scale = x.data_ptr(), codes.data_ptr(), scale.data_ptr()
        rows.factor, rows.samples = (None, 1) if factor is None else (factor.data_ptr(), len(factor))
        product.out, product.column_scale = out.data_ptr(), column_scale.data_ptr()
        rows.threads = product.threads = threads
        call.with_pair = pair is not None
        if pair is not None:
            h = x.new_empty(call.down.rows, len(pair.down))
            _lay_out(call.down, pair.down, pair.scale_down, x, h, threads)
            _lay_out(call.up, pair.up, pair.scale_up, out, h, threads)
        binding.call("intaglio_layer", call)
        return LayerResult(codes, scale, out, h)

    def of_codes(self, codes: Tensor, scale: Tensor) -> Tensor:
        """The product of int8 codes (B, H, W, C), dense, and their scales (G,): what a call gives from their values."""
        kernels = binding.compiled(codes, self.weight.qdata)
        if kernels is None or watched() or not codes.numel():
            return self._product(codes, scale, self.column_scale)
        out = codes.new_empty(self.out_shape, dtype=self.dtype)
        with self._lock:
            product = self.structure.product
            product.x, product.row_scale, product.out = codes.data_ptr(), scale.data_ptr(), out.data_ptr()
            product.column_scale = self.column_scale.data_ptr()
            product.threads = torch.get_num_threads()
            binding.call("intaglio_product", product)
        return out

    def _by_operators(self, x: Tensor, factor: Tensor | None, pair: Pair | None, column_scale: Tensor) -> LayerResult:
        codes, scale = quantize_rows(x.reshape(self._rows_shape), factor)
        codes = codes.view(self.shape)
        out = self._product(codes, scale, column_scale)
        if pair is None:
            return LayerResult(codes, scale, out, None)
        h = pair_down(x.reshape(-1, self.shape[3]), pair.down, pair.scale_down)
        pair_up(out.view(-1, self.out_shape[3]), h, pair.up, pair.scale_up)
        return LayerResult(codes, scale, out, h)

    def _product(self, codes: Tensor, scale: Tensor, column_scale: Tensor) -> Tensor:
        return weight_product(
            codes, self.weight, self.window, row_scale=scale, column_scale=column_scale, bias=self.bias,
            grad_input_size=self.grad_input_size, dtype=self.dtype,
        )  # fmt: skip


def _lay_out(part: Any, matrix: Tensor, scale: float, x: Tensor, h: Tensor, threads: int) -> None:
    part.a, part.scale, part.rank = matrix.data_ptr(), scale, len(matrix)
    part.a_rank_stride, part.a_column_stride = matrix.stride()
    part.x, part.h, part.threads = x.data_ptr(), h.data_ptr(), threads


def _fits(x: Tensor, pair: Pair) -> bool:
    """Whether the compiled products of a pair take these."""
    return x.dtype == torch.bfloat16 and pair.down.dtype == pair.up.dtype == torch.float32
