"""Norms by `kernels.group_norm` and `kernels.layer_norm`, as classes that a module is changed into and back.

Where no compiled code serves the tensor, they compute what they are made of.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from intaglio.kernels import binding
from intaglio.kernels.group_norm import group_norm
from intaglio.kernels.layer_norm import layer_norm
from intaglio.kernels.row_quantizer import Keep


def is_fast(x: Tensor) -> bool:
    """Whether compiled code computes on this tensor."""
    return binding.compiled_at("avx2", x) is not None


class FusedGroupNorm(nn.GroupNorm):
    """Its output is channels-last, so that a convolution behind it rounds it without a copy."""

    kept: Keep

    def forward(self, input: Tensor, silu: bool = False) -> Tensor:
        if input.ndim == 4 and is_fast(input):
            norm = (self.num_groups, self.weight, self.bias, self.eps)
            return group_norm(input, *norm, silu=silu, keep=self.kept)
        y = super().forward(input)
        return F.silu(y) if silu else y


class FusedGroupNormSiLU(FusedGroupNorm):
    """With the activation that stands behind it, which has become a `PassedSiLU`."""

    def forward(self, input: Tensor, silu: bool = True) -> Tensor:
        return super().forward(input, silu)


class PassedSiLU(nn.SiLU):
    """Computed by the norm before it."""

    def forward(self, input: Tensor) -> Tensor:
        return input


class FusedLayerNorm(nn.LayerNorm):
    kept: Keep

    def forward(self, input: Tensor) -> Tensor:
        if len(self.normalized_shape) == 1 and is_fast(input):
            return layer_norm(input, self.weight, self.bias, self.eps, keep=self.kept)
        return super().forward(input)
