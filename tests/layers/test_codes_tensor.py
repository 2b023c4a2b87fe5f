"""A parameter of INT8 codes is a float tensor to whoever asks, and gives its codes back from its values."""

import copy

import pytest
import torch
from torch import nn

from intaglio.errors import UserError
from intaglio.layers.codes_tensor import CodesTensor
from intaglio.quantizers import integer_step as step


@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 5), 0), ((7, 3), 1), ((1, 1), 0), ((2, 4, 3, 3), 0), ((6, 2, 1, 1), 1)]
)
def test_codes_are_those_of_the_definition(shape, axis):
    values = torch.randn(shape)
    tensor = CodesTensor.of(values, axis)
    rows = values.reshape(shape[0], -1) if axis == 0 else values.reshape(-1, shape[1]).T.contiguous()
    defined = step.quantize(rows.numpy(), 8, len(rows))
    codes = tensor.codes.reshape(shape[0], -1) if axis == 0 else tensor.codes.reshape(-1, shape[1]).T
    assert torch.equal(codes, torch.from_numpy(defined.codes))
    assert torch.equal(tensor.scale.flatten().log2().int(), torch.from_numpy(defined.exponent).flatten())
    again = CodesTensor.of(tensor.values(), axis)
    assert torch.equal(again.codes, tensor.codes)
    assert torch.equal(again.scale, tensor.scale)


def test_as_a_parameter():
    values = torch.randn(4, 6)
    parameter = nn.Parameter(CodesTensor.of(values, 0))
    assert isinstance(parameter, nn.Parameter)
    assert (parameter.dtype, parameter.shape) == (torch.float32, values.shape)
    assert torch.equal(parameter.detach().float().clone(), parameter.values())
    (parameter * 2).sum().backward()
    assert torch.equal(parameter.grad, torch.full((4, 6), 2.0))
    with torch.no_grad():
        parameter.copy_(3 * values)
    assert torch.equal(parameter.values(), CodesTensor.of(3 * values, 0).values())
    held = parameter.codes.nbytes + parameter.scale.nbytes
    assert held == 4 * 6 + 4 * 4


def test_stochastic_rounding_has_no_bias():
    values = torch.full((1, 20000), 0.3)
    values[0, 0] = 127.0
    tensor = CodesTensor.of(values, 0)
    tensor.round_to(values, torch.tensor(3))
    # the standard error of 20,000 draws of a variable that is 0 or 1 with probability 0.3
    assert abs(tensor.values()[0, 1:].mean().item() - 0.3) < 5 * (0.3 * 0.7 / 20000) ** 0.5


def test_what_would_be_lost_is_refused():
    parameter = nn.Parameter(CodesTensor.of(torch.randn(3, 4), 0))
    parameter.grad = torch.ones(3, 4)
    for foreach in (False, True):
        optimizer = torch.optim.AdamW([parameter], foreach=foreach)
        with pytest.raises(UserError, match="IntegerAdamW"):
            optimizer.step()
    with pytest.raises(UserError, match="held as INT8 codes"):
        nn.init.zeros_(parameter)


def test_copies_are_their_own():
    parameter = nn.Parameter(CodesTensor.of(torch.randn(3, 4), 0))
    copied = copy.deepcopy(parameter)
    with torch.no_grad():
        parameter.copy_(torch.zeros(3, 4))
    assert isinstance(copied, CodesTensor)
    assert copied.codes.any()
