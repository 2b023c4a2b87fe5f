"""A denoiser's attention by `kernels.attention`, in the place of diffusers' own processors."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

from intaglio.kernels.attention import attention
from intaglio.layers.shared_input import project


class FlashAttentionProcessor:
    """What `AttnProcessor2_0` does, with `attention` in the middle; norms, projections, residual, rescaling are alike.

    With a mask, or arguments that it does not know, the processor that it stands in for computes.
    """

    def __init__(self, replaced: AttnProcessor | AttnProcessor2_0, int8: bool = False):
        self.replaced, self.int8 = replaced, int8

    def __call__(
        self,
        attn: Any,  # an Attention; those whose default these processors are have every projection
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        if attention_mask is not None or args or kwargs:
            return self.replaced(attn, hidden_states, encoder_hidden_states, attention_mask, temb, *args, **kwargs)
        x = hidden_states if attn.spatial_norm is None else attn.spatial_norm(hidden_states, temb)
        if x.ndim == 4:
            x = x.flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, T, C)
        if attn.group_norm is not None:
            x = attn.group_norm(x.transpose(1, 2)).transpose(1, 2)
        context = x if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        if context is x:
            made = project(x, attn.to_q, attn.to_k, attn.to_v)
        else:
            made = [attn.to_q(x), *project(context, attn.to_k, attn.to_v)]
        q, k, v = (_heads(m, attn.heads) for m in made)
        # AttnProcessor2_0 always divides by sqrt(head_dim); diffusers gives `scale_qk=False` to AttnProcessor alone
        scale = None if isinstance(self.replaced, AttnProcessor2_0) else attn.scale
        if scale is None:
            q = q if attn.norm_q is None else attn.norm_q(q)
            k = k if attn.norm_k is None else attn.norm_k(k)
        out = attention(q, k, v, scale, int8=self.int8).transpose(1, 2).flatten(2).to(q.dtype)
        for module in attn.to_out:  # the projection and dropout
            out = module(out)
        if hidden_states.ndim == 4:
            out = out.transpose(1, 2).reshape(hidden_states.shape)
        if attn.residual_connection:
            out = out + hidden_states
        return out if attn.rescale_output_factor == 1 else out / attn.rescale_output_factor


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, heads * D) -> (B, heads, T, D), a view."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def install_attention(denoiser: nn.Module, *, int8: bool = False) -> int:
    """Let every `Attention` of a denoiser whose processor is diffusers' default compute by `kernels.attention`.

    Others keep what they have: another processor, or one that must compute in float32 (`upcast_attention`).

    Args:
        int8: the two products of the forward pass in INT8, slightly faster and less exact (docs/attention.md).

    Returns:
        How many were replaced.
    """
    found = [m for m in _attentions(denoiser) if _is_default(m)]
    for module in found:
        module.set_processor(FlashAttentionProcessor(module.processor, int8))
    return len(found)


def remove_attention(denoiser: nn.Module) -> int:
    """Undo `install_attention`. Returns how many were put back."""
    found = [m for m in _attentions(denoiser) if isinstance(m.processor, FlashAttentionProcessor)]
    for module in found:
        module.set_processor(module.processor.replaced)
    return len(found)


def _attentions(denoiser: nn.Module) -> list[Any]:
    return [m for m in denoiser.modules() if isinstance(m, Attention)]


def _is_default(module: Any) -> bool:
    if type(module.processor) is AttnProcessor:
        return not (module.upcast_attention or module.upcast_softmax)
    return type(module.processor) is AttnProcessor2_0
