"""Fused norms and activations in a diffusers denoiser: put in, and taken out again.

A module is changed into a subclass of its own class, in place: its parameters, their names, hooks and whoever asks
`isinstance(module, nn.GroupNorm)` see no difference. What is not known, or trains its norms, is left as it is.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.activations import GEGLU, GELU, SwiGLU
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from intaglio.kernels.row_quantizer import Keep, check_keep
from intaglio.layers.fused_blocks import (
    FusedGEGLU,
    FusedGELU,
    FusedResnetBlock2D,
    FusedSwiGLU,
    FusedTransformer2DModel,
)
from intaglio.layers.fused_norms import FusedGroupNorm, FusedGroupNormSiLU, FusedLayerNorm, PassedSiLU

NORMS: dict[type, type] = {nn.GroupNorm: FusedGroupNorm, nn.LayerNorm: FusedLayerNorm}
ACTIVATIONS: dict[type, type] = {GEGLU: FusedGEGLU, GELU: FusedGELU, SwiGLU: FusedSwiGLU}
BLOCKS: dict[type, Any] = {ResnetBlock2D: FusedResnetBlock2D, Transformer2DModel: FusedTransformer2DModel}
PLAIN = {fused: plain for table in (NORMS, ACTIVATIONS, BLOCKS) for plain, fused in table.items()}
PLAIN |= {FusedGroupNormSiLU: nn.GroupNorm, PassedSiLU: nn.SiLU}


def install_fused(denoiser: nn.Module, *, norms: Keep = "codes", activations: Keep = "codes") -> int:
    """Let every known norm, activation and block of a denoiser compute by the fused kernels.

    Args:
        norms, activations: what they keep for their gradients: `input`, or its INT8 `codes`, half of bfloat16.

    Returns:
        How many modules were changed.
    """
    check_keep(norms)
    check_keep(activations)
    changed = 0
    for module in list(denoiser.modules()):
        plain = type(module)
        if plain in NORMS and _is_frozen(module):
            changed += _become(module, NORMS[plain], norms)
        elif plain in ACTIVATIONS:
            changed += _become(module, ACTIVATIONS[plain], activations)
    for module in list(denoiser.modules()):  # after their norms
        if type(module) in BLOCKS and BLOCKS[type(module)].can(module) and _has_fused_norms(module):
            changed += _become(module, BLOCKS[type(module)])
    return changed + _fuse_tail(denoiser)


def remove_fused(denoiser: nn.Module) -> int:
    """Undo `install_fused`. Returns how many modules were put back."""
    found = [m for m in denoiser.modules() if type(m) in PLAIN]
    for module in found:
        module.__class__ = PLAIN[type(module)]
        module.__dict__.pop("kept", None)
    return len(found)


def _become(module: nn.Module, fused: type, kept: str | None = None) -> int:
    module.__class__ = fused
    if kept is not None:
        module.__dict__["kept"] = kept
    return 1


def _is_frozen(module: nn.Module) -> bool:
    return not any(p.requires_grad for p in module.parameters(recurse=False))


def _has_fused_norms(block: Any) -> bool:
    names = ("norm1", "norm2") if isinstance(block, ResnetBlock2D) else ("norm",)
    return all(type(getattr(block, name, None)) is FusedGroupNorm for name in names)


def _fuse_tail(denoiser: Any) -> int:
    """The last norm of a U-Net with the SiLU behind it."""
    norm, act = getattr(denoiser, "conv_norm_out", None), getattr(denoiser, "conv_act", None)
    if type(norm) is not FusedGroupNorm or type(act) is not nn.SiLU:
        return 0
    norm.__class__ = FusedGroupNormSiLU
    return _become(act, PassedSiLU)
