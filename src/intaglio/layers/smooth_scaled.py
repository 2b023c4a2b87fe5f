"""Scales that vary with the timestep without a jump: N sets at nodes, timesteps in between take from both neighbours.

    node_n lies at t = (n + 1/2) T / N;   offset(t) = (1 - w) offset_n + w offset_(n+1) between node_n and node_(n+1)

Before the first node and after the last the offset is constant. Bytes and N are those of TuneQDM's intervals, whose
middles the nodes are; each set learns from the timesteps of three intervals, not of one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from intaglio.layers import frozen
from intaglio.layers.kinds import TimestepLayer
from intaglio.layers.scaled import ScaleSets, scaled_product
from intaglio.layers.timesteps import TimestepContext


def node_weights(fraction: Tensor, num_nodes: int) -> Tensor:
    """Share of each node at timesteps `fraction` = t / T in [0, 1], (B,) -> float32 (B, N), rows sum to 1."""
    place = (fraction.double() * num_nodes - 0.5).clamp(0, num_nodes - 1)
    nodes = torch.arange(num_nodes, device=fraction.device)
    return (1 - (place[:, None] - nodes).abs()).clamp_min(0).float()


class SmoothScaledLayer(TimestepLayer):
    layout = "scales"
    fixed_dtype = ("output_offset", "input_offset")

    def __init__(self, base: nn.Linear | nn.Conv2d, context: TimestepContext, num_nodes: int):
        super().__init__()
        self.base, self.context, self.num_intervals = base, context, num_nodes
        shape, device = frozen.geometry(base), frozen.device(base)
        self.output_offset = ScaleSets(num_nodes, shape.out_channels, device)
        self.input_offset = ScaleSets(num_nodes, shape.in_channels, device)

    def forward(self, x: Tensor) -> Tensor:
        selection = self.context.current()
        if selection.fraction is None:  # timesteps without values (meta device): shapes alone
            weights = torch.full((len(x), self.num_intervals), 1 / self.num_intervals, device=x.device)
        else:
            weights = node_weights(selection.fraction.to(x.device), self.num_intervals)
            weights = weights.repeat_interleave(len(x) // len(weights), dim=0)
        # A node that no sample is near gets no gradient, so neither momentum nor decay moves it.
        used = [n for n in range(self.num_intervals) if weights.is_meta or bool((weights[:, n] > 0).any())]
        share_BE = weights[:, used]
        r_out, r_in = (1 + share_BE @ offset(used) for offset in (self.output_offset, self.input_offset))
        return scaled_product(self.base, x, r_out, r_in, torch.arange(len(x), device=x.device))
