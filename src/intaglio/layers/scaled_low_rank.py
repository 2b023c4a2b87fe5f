"""Trainable scales and a low-rank pair around one frozen weight.

    y = r_out * (W_hat (r_in * x)) + b + scaling * B (A x)          r = 1 + offset

The pair sees the input as it is, so the two parts are trained side by side and neither rescales the other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from intaglio.layers import frozen
from intaglio.layers.frozen import compute_input
from intaglio.layers.low_rank import LowRankLayer
from intaglio.layers.scaled import scaled_product


class ScaledLowRankLayer(LowRankLayer):
    """Its tensors lie in our own file, as scales do: the ecosystem's LoRA has no place for offsets."""

    layout = "scales"
    fixed_dtype = ("lora_a", "lora_b", "output_offset", "input_offset")

    def __init__(self, base: nn.Linear | nn.Conv2d, rank: int, alpha: float):
        super().__init__(base, rank, alpha)
        shape, device = frozen.geometry(base), self.lora_a.device
        self.output_offset = nn.Parameter(torch.zeros(shape.out_channels, device=device))
        self.input_offset = nn.Parameter(torch.zeros(shape.in_channels, device=device))

    def forward(self, x: Tensor) -> Tensor:
        x = compute_input(x)
        update = self.update(x)
        y = scaled_product(self.base, x, 1 + self.output_offset[None], 1 + self.input_offset[None], None)
        return y + self.scaling * update

    @torch.no_grad()
    def merged_float(self) -> nn.Linear | nn.Conv2d:
        layer = frozen.to_float(self.base)
        weight = frozen.scale_inputs(layer, layer.weight, 1 + self.input_offset)
        weight = weight * (1 + self.output_offset).view(-1, *[1] * (weight.ndim - 1))
        product = torch.einsum("or,r...->o...", self.lora_b.flatten(1), self.lora_a)
        layer.weight.copy_(weight + (self.scaling * product).to(weight.dtype))
        return layer
