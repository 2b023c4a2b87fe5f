"""What each of the eight products of an integer layer loses to rounding, for a given input and gradient.

Each product is compared with the one of its float operands, so that its figure is its own: the rounding of its two
operands, with what went before exact. The gradients of the whole layer, with all errors together, come beside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from intaglio.layers.frozen import QuantizedLayer
from intaglio.layers.int8_lora.layer import Int8LoraLayer, weight_codes
from intaglio.layers.int8_lora.rounding import row_groups
from intaglio.layers.int8_lora.step import ADAPTER_BITS
from intaglio.layers.patches import channels_last_rows, fold, from_channels_last_rows, unfold
from intaglio.quantizers.activations import quantize_columns, quantize_groups
from intaglio.quantizers.integer_step import max_code
from intaglio.quantizers.quantize import from_rows, to_rows

GEMMS = ("y", "h", "u", "dx", "gh", "v", "db", "da")
"""As in `quantizers/integer_step.py`."""
OUTLIER = 6.0
"""A channel is an outlier when its largest value is over this many times the median channel's."""

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class LayerErrors:
    sqnr_db: dict[str, float]
    """For each of `GEMMS` the signal-to-quantization-noise ratio of its result; nan where the signal is zero."""
    cosine: dict[str, float]
    """For the layer's gradients "x", "a" and "b": the cosine between integer and float; nan where they are zero."""
    saturation: float
    """Share of the codes of the gradient at the ends of their range: near 0, but where a few values dwarf the rest."""
    zeros: float
    """Share of nonzero values of the gradient whose code is 0: those are lost."""
    outlier_channels: int
    """Of the input."""


def layer_errors(layer: Int8LoraLayer, x: Tensor, grad: Tensor) -> LayerErrors:
    """Errors of one layer, from its input and the gradient of its output, in their own shapes."""
    base, how = layer.base, layer.how
    assert isinstance(base, QuantizedLayer)
    shape, p2 = base.geometry, how.power_of_two
    scale = layer.weight_scale[:, None].double()
    rows = channels_last_rows(x.detach().double(), shape)
    if base.input_scale is not None:
        rows = rows * base.input_scale
    groups = row_groups(x.shape, shape, how)
    g = channels_last_rows(grad.detach().double(), shape)

    def by_group(
        values: Tensor, bits: int, columns: Tensor | None = None, count: int = groups
    ) -> tuple[Tensor, Tensor]:
        """What the codes of `values * columns` stand for, divided by `columns`; and the scale of each row."""
        factor = torch.ones((), dtype=torch.float64) if columns is None else columns
        codes, s = quantize_groups((values * factor).float(), bits, count, power_of_two=p2)
        s = s.double().repeat_interleave(len(values) // count, 0)
        return codes.double() * s / factor, s

    def by_column(values: Tensor, bits: int, row_scale: Tensor | None = None) -> Pair:
        factor = torch.ones((), dtype=torch.float64) if row_scale is None else row_scale
        codes, s = quantize_columns(values * factor, bits, power_of_two=p2)
        return codes.double() * s / factor, s.double()

    weight = weight_codes(base).double() * scale
    a, b = to_rows(layer.lora_a.detach()).double() * layer.scaling, layer.lora_b.detach().flatten(1).double()
    a_q, a_scale = by_group(a, ADAPTER_BITS, None, layer.rank)
    unit = torch.ones_like(scale) if how.separate_gradient else scale
    b_q, b_scale = by_column(b, ADAPTER_BITS, 1 / unit)
    x_q, x_scale = by_group(rows, how.activation_bits)
    x_rows, xq_rows = (unfold(t.float(), x.shape, shape).double() for t in (rows, x_q))
    x_scale = x_scale.view(groups, -1)[:, :1].repeat_interleave(len(x_rows) // groups, 0)
    g_q, g_scale = by_group(g, how.gradient_bits, scale.T)
    own_q, own_scale = by_group(g, how.gradient_bits) if how.separate_gradient else (g_q, g_scale)
    h, gh = x_rows @ a.T, g @ b
    h_q, _ = by_group(h, how.activation_bits, b_scale)
    gh_q, _ = by_group(gh, how.gradient_bits, a_scale.T)
    h_columns, _ = by_column(h, how.gradient_bits, own_scale)
    gh_columns, _ = by_column(gh, how.gradient_bits, x_scale)
    products = {
        "y": (x_rows @ weight.T, xq_rows @ weight.T),
        "h": (h, xq_rows @ a_q.T),
        "u": (h @ b.T, h_q @ b_q.T),
        "dx": (g @ weight, g_q @ weight),
        "gh": (gh, own_q @ b_q),
        "v": (gh @ a, gh_q @ a_q),
        "db": (g.T @ h, own_q.T @ h_columns),
        "da": (gh.T @ x_rows, gh_columns.T @ xq_rows),
    }
    dx = fold(products["dx"][0] + products["v"][0], x.shape, shape)
    if base.input_scale is not None:
        dx = dx * base.input_scale
    exact = {
        "x": from_channels_last_rows(dx, x.shape, shape),
        "a": from_rows(products["da"][0] * layer.scaling, layer.lora_a.shape),
        "b": products["db"][0].view(layer.lora_b.shape),
    }
    inside = x.detach().requires_grad_()
    with torch.enable_grad():
        got = torch.autograd.grad(layer(inside), [inside, layer.lora_a, layer.lora_b], grad)
    codes, _ = quantize_groups((g * scale.T).float(), how.gradient_bits, groups, power_of_two=p2)
    channels = rows.abs().amax(0)
    return LayerErrors(
        {name: _sqnr_db(*pair) for name, pair in products.items()},
        {name: _cosine(e, t.double()) for (name, e), t in zip(exact.items(), got, strict=True)},
        (codes.abs() == max_code(how.gradient_bits)).double().mean().item(),
        ((codes == 0) & (g != 0)).sum().item() / max(1, int((g != 0).sum().item())),
        int((channels > OUTLIER * channels.median()).sum().item()),
    )


def _sqnr_db(signal: Tensor, result: Tensor) -> float:
    power, noise = signal.square().sum().item(), (result - signal).square().sum().item()
    if power == 0:
        return math.nan
    return math.inf if noise == 0 else 10 * math.log10(power / noise)


def _cosine(left: Tensor, right: Tensor) -> float:
    norms = (left.norm() * right.norm()).item()
    return math.nan if norms == 0 else (left * right).sum().item() / norms
