"""Rounding for outputs: by hand, against plain rounding, and where the two are the same."""

import pytest
import torch

from intaglio.quantizers.formats import parse_format
from intaglio.quantizers.quantize import dequantize, quantize
from intaglio.quantizers.reconstruction import output_error, quantize_to_outputs

INT4 = parse_format("int4")


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 129), (4, 3, 3, 3)])
@pytest.mark.parametrize("format", ["int4", "int8"])
def test_inputs_without_correlation_give_plain_rounding(shape, format):
    torch.manual_seed(0)
    weight = torch.randn(shape)
    gram = torch.eye(weight[0].numel())
    plain, other = (f(weight, *rest) for f, *rest in ((quantize, parse_format(format)), (_with_gram(gram), format)))
    assert torch.equal(plain.qdata, other.qdata)
    assert torch.equal(plain.scale, other.scale)


def _with_gram(gram):
    return lambda weight, format: quantize_to_outputs(weight, gram, parse_format(format))


def test_the_next_column_makes_an_error_good():
    """Both inputs are always equal, the scale is 1: 0.4 + 0.4 becomes 0 + 1, where rounding gives 0 + 0."""
    weight = torch.tensor([[7.0, 0.4, 0.4]])
    gram = torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 1, 1]])
    assert dequantize(quantize(weight, INT4, "absmax")).tolist() == [[7, 0, 0]]
    assert dequantize(quantize_to_outputs(weight, gram, INT4, "absmax")).tolist() == [[7, 0, 1]]


def test_outputs_come_nearer_though_weights_do_not():
    torch.manual_seed(0)
    weight, mixing = torch.randn(16, 200), torch.randn(20, 200)
    inputs = torch.randn(500, 20) @ mixing + 0.1 * torch.randn(500, 200)
    gram = inputs.T @ inputs
    plain, other = dequantize(quantize(weight, INT4)), dequantize(quantize_to_outputs(weight, gram, INT4))
    assert output_error(weight, other, gram) < 0.2 * output_error(weight, plain, gram)
    assert (other - weight).square().sum() > (plain - weight).square().sum()
    direct = (inputs @ (other - weight).T).square().sum() / (inputs @ weight.T).square().sum()
    assert output_error(weight, other, gram) == pytest.approx(float(direct), rel=1e-3)


def test_inputs_that_are_always_zero_change_nothing():
    weight = torch.randn(3, 5)
    assert torch.equal(quantize_to_outputs(weight, torch.zeros(5, 5), INT4).qdata, quantize(weight, INT4).qdata)


def test_other_formats_are_refused():
    with pytest.raises(ValueError, match="one scale per output channel, not int4_g64"):
        quantize_to_outputs(torch.randn(2, 64), torch.eye(64), parse_format("int4_g64"))
