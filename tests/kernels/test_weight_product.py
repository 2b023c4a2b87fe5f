"""The product with a frozen weight against torch's float64 layers, exactly; its scales to the bit."""

import itertools
from dataclasses import replace as with_fields

import pytest
import torch
from torch.nn import functional as F

from intaglio.kernels.weight_product import Window, integer_weight, weight_product
from intaglio.quantizers.formats import parse_format
from intaglio.quantizers.quantize import dequantize, from_rows, quantize

EXACT = ("int8", "int4", "int4_asym")
ROUNDED = ("int8_asym", "int4_g8", "int4_g64", "int4_g64_asym", "nf4", "nf4_g8")

WINDOWS = [
    Window((3, 3), padding=(1, 1)),
    Window((3, 3), (2, 2), (1, 1)),
    Window((1, 1)),
    Window((3, 1), (1, 2), (2, 0), (2, 1)),
    Window((2, 3), (3, 1)),
    Window((1, 1), (2, 2)),
]


def random_weight(shape, format, seed=0):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return quantize(weight, parse_format(format), "absmax")


def codes(*shape, seed=1):
    return torch.randint(-127, 128, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(seed))


def reference(x, weight, shape, window, size=None):
    """Integer sums by torch's convolution in float64, whose every partial sum is exact: (B, H, W, C)."""
    kernel = from_rows(weight.codes().double(), (*shape[:2], *window.kernel))
    options = {"stride": window.stride, "padding": window.padding, "dilation": window.dilation}
    x = x.permute(0, 3, 1, 2).double()
    if size is None:
        return F.conv2d(x, kernel, **options).permute(0, 2, 3, 1)
    back = torch.nn.grad.conv2d_input((len(x), shape[1], *size), kernel, x, **options)
    return back.permute(0, 2, 3, 1)


def assert_exact(shape, format, window, size, batch=2):
    out, channels = shape
    weight = integer_weight(random_weight((out, channels, *window.kernel), format))
    row_scale = torch.rand(batch) + 0.5
    for back in (False, True):
        spatial = window.output_size(size) if back else size
        x = codes(batch, *spatial, out if back else channels)
        column_scale = torch.rand(channels if back else out) + 0.5
        bias = torch.randn(len(column_scale))
        expected = reference(x, weight, shape, window, size if back else None)
        arguments = (x, weight, window)
        options = {"grad_input_size": size if back else None}
        got = weight_product(*arguments, row_scale=torch.ones(1), column_scale=torch.ones(len(column_scale)), **options)
        assert torch.equal(got.double(), expected)  # the sums here are below 2**24
        got = weight_product(*arguments, row_scale=row_scale, column_scale=column_scale, bias=bias, **options)
        scaled = expected.float() * row_scale[:, None, None, None] * column_scale + bias
        assert torch.equal(got, scaled)
        got = weight_product(
            *arguments, row_scale=row_scale, column_scale=column_scale, bias=bias, dtype=torch.bfloat16, **options
        )
        assert torch.equal(got, scaled.bfloat16())


@pytest.mark.parametrize("format", EXACT + ROUNDED)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_convolutions(format, window):
    assert_exact((19, 17), format, window, (7, 5))


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (16, 64), (33, 130), (131, 37), (257, 9)], ids=str)
@pytest.mark.parametrize("format", ["int8", "int4", "nf4", "int4_g8_asym"])
def test_matrices(shape, format):
    """Odd columns share a byte with their neighbour's; a single row, a prime, and more rows than a block."""
    for rows in (1, 2, 101):
        assert_exact(shape, format, Window(), (1, rows), batch=1)


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_several_blocks(format):
    """More steps, rows and columns than any block of the fast path holds."""
    assert_exact((150, 200), format, Window((3, 3), padding=(1, 1)), (32, 33), batch=1)


@pytest.mark.once
@pytest.mark.parametrize("format", EXACT)
def test_exact_formats_lose_nothing(format):
    quantized = random_weight((11, 30), format)
    weight = integer_weight(quantized)
    assert torch.equal(weight.codes() * weight.scale[:, None], dequantize(quantized))


@pytest.mark.once
@pytest.mark.parametrize("format", ROUNDED)
def test_other_formats_lose_half_a_step(format):
    """At most half of one INT8 step, 1/254 of the largest weight that the channel's formats could hold."""
    quantized = random_weight((11, 130), format)
    weight = integer_weight(quantized)
    error = (weight.codes() * weight.scale[:, None] - dequantize(quantized)).abs()
    assert (error <= weight.scale[:, None] * (0.5 + 127 * 4 * 2.0**-24)).all()
    assert weight.codes().abs().max() <= 127


@pytest.mark.parametrize(("code", "value"), list(itertools.product([-127, 127], [-8.0, 7.0, -127.0, 127.0])))
def test_saturating_values(code, value):
    """Where 16-bit sums would overflow if they were not widened in time."""
    name = "int4" if abs(value) <= 8 else "int8"
    weight = torch.full((20, 700), value)
    weight[:, 0] = -8.0 if name == "int4" else 127.0
    integers = integer_weight(quantize(weight, parse_format(name), "absmax"))
    x = torch.full((1, 1, 9, 700), code, dtype=torch.int8)
    got = weight_product(x, integers, Window(), row_scale=torch.ones(1), column_scale=torch.ones(20))
    assert torch.equal(got.double(), reference(x, integers, (20, 700), Window()))


def test_threads_change_nothing():
    weight = integer_weight(random_weight((320, 64, 3, 3), "int4"))
    x, window = codes(2, 9, 9, 64), Window((3, 3), padding=(1, 1))
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(weight_product(x, weight, window, row_scale=torch.rand(2).fill_(0.3), column_scale=weight.scale))
    torch.set_num_threads(before)
    assert all(torch.equal(r, results[0]) for r in results)


def test_not_a_number_goes_on():
    weight = integer_weight(random_weight((4, 4), "int4"))
    scale = torch.tensor([1.0, float("nan")])
    got = weight_product(codes(1, 1, 2, 4), weight, Window(), row_scale=scale, column_scale=weight.scale)
    assert torch.isfinite(got[0, 0, 0]).all()
    assert torch.isnan(got[0, 0, 1]).all()


@pytest.mark.once
def test_it_is_an_operator_with_a_fake():
    weight = integer_weight(random_weight((6, 4), "int4"))
    operator = torch.ops.intaglio.weight_product.default
    arguments = (
        codes(1, 1, 3, 4), weight.qdata, None, None, None, [6, 1, 4], 4, [1, 1, 1, 1, 0, 0, 1, 1, 1, 3], False,
        torch.ones(3), weight.scale, None, torch.float32,
    )  # fmt: skip
    torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.once
def test_what_is_refused():
    weight = integer_weight(random_weight((6, 4), "int4"))
    x, ones = codes(1, 1, 3, 4), torch.ones(1)
    for call, message in (
        (lambda: weight_product(x.float(), weight, Window(), row_scale=ones, column_scale=ones), "expected torch.int8"),
        (
            lambda: weight_product(codes(1, 1, 3, 5), weight, Window(), row_scale=ones, column_scale=ones),
            "(B, H, W, 4)",
        ),
        (
            lambda: weight_product(x, weight, Window(), row_scale=ones, column_scale=ones),
            "1 column scales and None biases",
        ),
        (
            lambda: weight_product(x, weight, Window(), row_scale=ones, column_scale=weight.scale, bias=ones),
            "6 column scales and 1 biases",
        ),
        (
            lambda: weight_product(x, weight, Window(), row_scale=ones, column_scale=weight.scale, dtype=torch.float16),
            "a result in torch.float16",
        ),
        (
            lambda: weight_product(
                codes(1, 1, 3, 6), weight, Window(), row_scale=ones, column_scale=ones, grad_input_size=(1, 4)
            ),
            "an input of (1, 4) has no output of (1, 3)",
        ),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert message in str(caught.value)


@pytest.mark.parametrize("format", ["int4", "int8"])
@pytest.mark.parametrize("window", [Window(), *WINDOWS[:2]], ids=str)
def test_long_sums(format, window):
    """The most that a sum can be, of more products than a float32 adds exactly; an even number of channels."""
    channels = 4100
    made = random_weight((3, channels, *window.kernel), format)
    weight = integer_weight(with_fields(made, qdata=torch.full_like(made.qdata, 0x77 if format == "int4" else 127)))
    size = (1, 4) if window == Window() else (3, 4)
    x = torch.full((1, *size, channels), 127, dtype=torch.int8)
    ones = torch.ones(3)
    got = weight_product(x, weight, window, row_scale=ones[:1], column_scale=ones)
    assert torch.equal(got, reference(x, weight, (3, channels), window).float())  # int32 to float32, rounded once
    grad = torch.full((1, *window.output_size(size), 3), -127, dtype=torch.int8)
    ones = torch.ones(channels)
    got = weight_product(grad, weight, window, row_scale=ones[:1], column_scale=ones, grad_input_size=size)
    assert torch.equal(got, reference(grad, weight, (3, channels), window, size).float())


@pytest.mark.parametrize("window", [Window(), *WINDOWS], ids=str)
def test_even_channels(window):
    """Two codes of a byte belong to one tap."""
    assert_exact((10, 6), "int4", window, (1, 9) if window == Window() else (7, 5))
