"""A denoiser that computes in integers: its quantized layers' products, and what stands between them.

Norms, activations and attention stay float, but by compiled code that keeps INT8 codes for their gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from intaglio.layers.attention import install_attention, remove_attention
from intaglio.layers.frozen import set_integer_gemms
from intaglio.layers.fused import install_fused, remove_fused


def install_integer_path(denoiser: nn.Module, gemms: Sequence[str], *, integer_attention: bool = False) -> None:
    """Run these products of every quantized layer in integers, and those of attention's forward pass where asked for.

    With none of them the denoiser is left as it is.

    Raises:
        UnknownChoice: a name that is not in `layers.integer.GEMMS`.
    """
    set_integer_gemms(denoiser, gemms)
    if gemms or integer_attention:
        install_attention(denoiser, int8=integer_attention)
    if gemms:
        install_fused(denoiser)


def remove_integer_path(denoiser: nn.Module) -> None:
    """Undo `install_integer_path`."""
    set_integer_gemms(denoiser, ())
    remove_attention(denoiser)
    remove_fused(denoiser)
