"""One call for what a layer of `int8_lora` makes of its operators: 4 in the forward pass, 6 in the backward pass.

It is for the default arithmetic: 8 bits, nearest rounding, a float scale for each run of rows, a layer without taps.
It computes what `pair_codes`, `quantize_rows`, `weight_product`, `low_rank_update` and `token_gradient` compute one
after the other, bit for bit (`tests/kernels/test_integer_lora_call.py`). Those define it; here arguments are laid out
once a shape.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from intaglio.kernels import binding
from intaglio.kernels.structures import structure
from intaglio.kernels.weight_product import LayerCall
from intaglio.quantizers.integer_step import MIN_EXPONENT

_Step = structure("IntegerLora")


class IntegerLoraCall:
    """Both directions for inputs of one shape and dtype."""

    made_from: tuple[object, ...]
    """What whoever keeps the call compares, to know whether it is still the layer's."""

    def __init__(
        self,
        output: LayerCall,
        grad_input: LayerCall,
        *,
        rank: int,
        scaling: float,
        weight_scale: Tensor,
        input_scale: Tensor | None,
        power_of_two: bool,
    ):
        """
        Args:
            output, grad_input: the base's products, of a window of one tap and of stride 1.
            scaling: of `a`, before it is rounded.
            weight_scale: float32 (O,); `b` is rounded over it.
            input_scale: float32 (I,), or None for 1.
            power_of_two: whether the scales of the codes of `a` and `b` are.
        """
        self._lock = threading.Lock()  # the structures are one thread's at a time
        self._output, self._grad_input, self._rank = output, grad_input, rank
        out, in_ = output.weight.shape[0], output.weight.shape[2]
        self._factor = None if scaling == 1 else weight_scale.new_full((in_,), scaling)
        self._scales = weight_scale.contiguous(), None if input_scale is None else input_scale.float().contiguous()
        same = {
            "in_": in_, "out": out, "rank": rank, "a_factor": binding.address(self._factor),
            "weight_scale": binding.address(self._scales[0]), "power_of_two": power_of_two,
            "smallest": 2.0**MIN_EXPONENT,
        }  # fmt: skip
        forward, backward = output.structure, grad_input.structure
        self._forward = _Step(rows=forward.rows, product=forward.product, **same)
        self._forward.rows.factor, self._forward.rows.samples = binding.address(self._scales[1]), 1
        self._backward = _Step(
            rows=backward.rows, product=backward.product, input_scale=binding.address(self._scales[1]),
            multiplier=scaling, **same,
        )  # fmt: skip
        self._backward.rows.factor, self._backward.rows.samples = binding.address(self._scales[0]), 1

    def fits(self, x: Tensor) -> bool:
        """Whether compiled code computes with this input or gradient."""
        return x.dtype == self._output.dtype and binding.compiled_at("avx512", x) is not None

    def forward(
        self, x: Tensor, rounded: tuple[Tensor, Tensor] | None, a: Tensor, b: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, bool]:
        """
        Args:
            x: (B, H, W, I), of the call's shape and dtype, any strides.
            rounded: its codes int8 (M, I) and scales float32 (G,), if they are known.
            a, b: float32 (r, I) and (O, r), dense.

        Returns:
            codes and scales of x, h int32 (M, r), the output (B, H, W, O), and whether every scale is finite.
        """
        output = self._output
        if rounded is None:
            x = x.contiguous()
            codes, scale = x.new_empty(output.shape, dtype=torch.int8), x.new_empty(output.groups, dtype=torch.float32)
            codes = codes.view(-1, output.shape[3])
        else:
            codes, scale = rounded
        h, out = x.new_empty(len(codes), self._rank, dtype=torch.int32), x.new_empty(output.out_shape)
        with self._lock:
            call = self._forward
            call.rows.x, call.rows.codes, call.rows.scale = x.data_ptr(), codes.data_ptr(), scale.data_ptr()
            call.rounded, call.product.out = rounded is not None, out.data_ptr()
            call.a, call.b, call.h = a.data_ptr(), b.data_ptr(), h.data_ptr()
            call.threads = torch.get_num_threads()
            finite = binding.call("intaglio_integer_lora_forward", call)
        return codes, scale, h, out, bool(finite)

    def backward(
        self, grad: Tensor, codes: Tensor, scale: Tensor, h: Tensor, a: Tensor, b: Tensor, *, need_x: bool
    ) -> tuple[Tensor | None, Tensor, Tensor, bool]:
        """
        Args:
            grad: (B, H, W, O) in the call's dtype, any strides.
            codes, scale, h, a, b: as in `forward`.

        Returns:
            Gradients of x (B, H, W, I), where it is needed, of a and of b; and whether every scale of `grad` is finite.
        """
        grad = grad.contiguous()
        grad_x = grad.new_empty(self._grad_input.out_shape) if need_x else None
        grad_a, grad_b = torch.empty_like(a), torch.empty_like(b)
        with self._lock:
            call = self._backward
            call.rows.x, call.product.out = grad.data_ptr(), binding.address(grad_x)
            call.with_product, call.a, call.b = need_x, a.data_ptr(), b.data_ptr()
            call.h, call.x_codes, call.x_scale = h.data_ptr(), codes.data_ptr(), scale.data_ptr()
            call.grad_a, call.grad_b, call.threads = grad_a.data_ptr(), grad_b.data_ptr(), torch.get_num_threads()
            finite = binding.call("intaglio_integer_lora_backward", call)
        return grad_x, grad_a, grad_b, bool(finite)
