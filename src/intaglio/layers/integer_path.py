"""A denoiser that computes in integers: its quantized layers' products, and what stands between them.

Norms, activations and attention stay float, but by compiled code that saves INT8 values for their gradients.
"""

from __future__ import annotations

from torch import nn

from intaglio.layers.attention import install_attention, remove_attention
from intaglio.layers.frozen import Compute, QuantizedLayer
from intaglio.layers.fused import install_fused, remove_fused


def install_integer_path(denoiser: nn.Module, integer: bool, *, integer_attention: bool = False) -> None:
    """Make the products of every quantized layer in integers or in float, both directions alike.

    With neither of the two asked for the denoiser is left as it is.

    Args:
        integer_attention: the two products of attention's forward pass in INT8 too.
    """
    set_compute(denoiser, "integer" if integer else "float")
    if integer or integer_attention:
        install_attention(denoiser, int8=integer_attention)
    if integer:
        install_fused(denoiser)


def remove_integer_path(denoiser: nn.Module) -> None:
    """Undo `install_integer_path`."""
    set_compute(denoiser, "float")
    remove_attention(denoiser)
    remove_fused(denoiser)


def set_compute(model: nn.Module, compute: Compute) -> None:
    """Say for every quantized layer of `model` how its products are made."""
    for module in model.modules():
        if isinstance(module, QuantizedLayer):
            module.compute = compute
