"""A layer in one call against its operators one after the other, bit for bit."""

import pytest
import torch

from intaglio.kernels import isa
from intaglio.kernels.weight_product import LayerCall, Pair, Window, integer_weight
from intaglio.quantizers.formats import parse_format
from intaglio.quantizers.quantize import quantize

SHAPES = [
    ((1, 1, 1, 3), 5, Window()),
    ((1, 1, 37, 40), 33, Window()),
    ((2, 5, 6, 7), 9, Window((3, 3), padding=(1, 1))),
]


def call_of(shape, out, window, dtype, format="int4", back=False):
    weight = integer_weight(quantize(torch.randn(out, shape[3], *window.kernel), parse_format(format), "absmax"))
    groups = shape[0] if window.taps > 1 else shape[2]
    size = window.output_size(shape[1:3])
    given = (shape[0], *size, out) if back else shape
    columns = shape[3] if back else out
    bias = torch.randn(columns)
    return LayerCall(
        weight, window, given, dtype, groups=groups, column_scale=torch.rand(columns) + 0.5, bias=bias,
        grad_input_size=shape[1:3] if back else None,
    )  # fmt: skip


@pytest.mark.once(*isa.SETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("factors", [None, 1, "samples"])
def test_equals_the_operators(shape, back, dtype, factors):
    call = call_of(*shape, dtype, back=back)
    x = torch.randn(call.shape).to(dtype)
    count = call.shape[0] if factors == "samples" else factors
    factor = None if count is None else torch.rand(count, call.shape[3]) + 0.5
    pair = None
    if shape[2].taps == 1:
        pair = Pair(torch.randn(3, call.shape[3]), torch.randn(call.out_shape[3], 3).T, 0.5, 2.0)
    for given in (None, pair):
        for out_factor in (None, torch.rand(call.out_shape[3]) + 0.5):
            one = call(x, factor, given, out_factor)
            scale = call.column_scale if out_factor is None else call.column_scale * out_factor
            apart = call._by_operators(x, factor, given, scale)
            for a, b in zip(one, apart, strict=True):
                assert (a is None) == (b is None)
                if a is not None:
                    assert torch.equal(a, b)


def test_any_strides():
    call = call_of(*SHAPES[2], torch.float32)
    x = torch.randn(2, 7, 5, 6).permute(0, 2, 3, 1)
    assert torch.equal(call(x, None).out, call(x.contiguous(), None).out)


@pytest.mark.once
def test_a_shape_that_does_not_fit():
    weight = integer_weight(quantize(torch.randn(5, 3), parse_format("int8"), "absmax"))
    options = {"groups": 2, "column_scale": weight.scale, "bias": None, "grad_input_size": None}
    with pytest.raises(ValueError, match=r"weight_product: codes \(1, 1, 2, 4\) against a weight of 5 x 1 taps x 3"):
        LayerCall(weight, Window(), (1, 1, 2, 4), torch.float32, **options)
