"""Weight <-> packed codes, against a slow element by element definition."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intaglio.errors import UnknownChoice, UserError
from intaglio.quantizers.formats import FORMAT_NAMES, NF4_LEVELS, parse_format
from intaglio.quantizers.packing import pack_nibbles, unpack_nibbles
from intaglio.quantizers.quantize import dequantize, from_rows, quantize, to_rows
from intaglio.quantizers.ranges import RANGE_SEARCHES

ODD_SHAPES = [(1, 1), (1, 7), (3, 1), (5, 63), (2, 65), (7, 130), (4, 3, 3, 3), (2, 5, 1, 1), (3, 2, 5, 3)]


def slow_code(value, scale, zero, format):
    """The nearest code of one number, by trying all of them."""
    if format.levels is not None:
        return min(range(16), key=lambda c: (abs(format.levels[c] * scale - value), c))
    codes = range(format.code_min, format.code_max + 1)
    return min(codes, key=lambda c: abs((c - zero) * scale - value))


@pytest.mark.parametrize("name", FORMAT_NAMES)
@pytest.mark.parametrize("shape", ODD_SHAPES)
def test_every_code_is_the_nearest(name, shape):
    format = parse_format(name)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))
    quantized = quantize(weight, format, "absmax")
    restored = to_rows(dequantize(quantized, torch.float64))
    rows = to_rows(weight).double()
    for row, column in itertools.product(range(min(3, rows.shape[0])), range(rows.shape[1])):
        group = 0 if format.group_size is None else column // format.group_size
        scale = quantized.scale[row, group].double().item()
        zero = 0 if quantized.zero_point is None else quantized.zero_point[row, group].item()
        code = slow_code(rows[row, column].item(), scale, zero, format)
        expected = format.levels[code] * scale if format.levels else (code - zero) * scale
        error = abs(restored[row, column] - rows[row, column]).item()
        # Ties and float32 division may pick the neighbour: it is then as near, up to one rounding.
        assert error <= abs(expected - rows[row, column].item()) + 1e-6 * scale


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_bytes_are_what_the_format_says(name):
    format = parse_format(name)
    quantized = quantize(torch.randn(6, 131), format)
    assert quantized.qdata.nbytes == 6 * (66 if format.bits == 4 else 131)
    assert quantized.scale.shape == (6, format.num_groups(131))
    assert (quantized.zero_point is None) == format.symmetric


def test_worked_by_hand():
    """absmax of [-4, 1, 3.5] is 4: int4 symmetric reaches -8..7, so scale = max(3.5 / 7, 4 / 8) = 0.5."""
    quantized = quantize(torch.tensor([[-4.0, 1.0, 3.5]]), parse_format("int4"), "absmax")
    assert quantized.scale.item() == 0.5
    # codes -8, 2, 7 -> nibbles 8, 2, 7 -> bytes 0x28, 0x07
    assert quantized.qdata.tolist() == [[0x28, 0x07]]
    assert dequantize(quantized).tolist() == [[-4.0, 1.0, 3.5]]


@given(st.integers(1, 5), st.integers(1, 40), st.booleans())
@settings(max_examples=40, deadline=None)
def test_packing_is_lossless(rows, columns, signed):
    low = -8 if signed else 0
    codes = torch.randint(low, low + 16, (rows, columns), dtype=torch.int8)
    assert torch.equal(unpack_nibbles(pack_nibbles(codes), columns, signed=signed), codes)


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_constant_rows(name):
    weight = torch.stack([torch.zeros(70), torch.full((70,), 2.0), torch.full((70,), -3.0), torch.full((70,), 1e-42)])
    restored = dequantize(quantize(weight, parse_format(name)))
    assert torch.isfinite(restored).all()
    assert torch.allclose(restored, weight, atol=1e-2)


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_mse_is_never_worse_than_absmax(name):
    weight = torch.distributions.StudentT(3.0).sample((16, 192))
    format = parse_format(name)
    errors = {s: (dequantize(quantize(weight, format, s)) - weight).square().sum() for s in RANGE_SEARCHES}
    assert errors["mse"] <= errors["absmax"] * (1 + 1e-5)


def test_rows_put_channels_last():
    weight = torch.arange(2 * 3 * 2 * 2).view(2, 3, 2, 2)
    rows = to_rows(weight)
    assert rows[0, :3].tolist() == weight[0, :, 0, 0].tolist()
    assert torch.equal(from_rows(rows, tuple(weight.shape)), weight)


def test_nf4_levels_are_symmetric_about_an_exact_zero():
    assert NF4_LEVELS[7] == 0.0
    assert NF4_LEVELS[0] == -1.0
    assert NF4_LEVELS[15] == 1.0
    assert list(NF4_LEVELS) == sorted(NF4_LEVELS)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_refuses_what_is_not_finite(value):
    weight = torch.ones(2, 8)
    weight[1, 3] = value
    with pytest.raises(UserError, match="not finite"):
        quantize(weight, parse_format("int4"))


@pytest.mark.parametrize("name", ["int3", "int4_g", "fp4", "", "int4_g64_sym"])
def test_refuses_unknown_formats(name):
    with pytest.raises(UnknownChoice, match="unknown format"):
        parse_format(name)


def test_refuses_odd_groups():
    with pytest.raises(UserError, match="multiple of 8"):
        parse_format("int4_g12")
