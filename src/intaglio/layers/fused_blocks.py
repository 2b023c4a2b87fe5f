"""Blocks of diffusers that use the fused norms and activations, as classes that a module is changed into and back."""

from __future__ import annotations

from typing import Any

from diffusers.models.activations import GEGLU, GELU, SwiGLU
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from intaglio.kernels.gated import activation, gated_activation
from intaglio.kernels.row_quantizer import Keep
from intaglio.layers.fused_norms import is_fast


class FusedResnetBlock2D(ResnetBlock2D):
    """Norms with their SiLU in one, and a shortcut that keeps the picture channels-last. Its norms are fused ones."""

    @staticmethod
    def can(block: ResnetBlock2D) -> bool:
        """Whether this is the plain kind: a time embedding that is added, no resampling, SiLU."""
        return (
            block.time_embedding_norm == "default"
            and block.upsample is None
            and block.downsample is None
            and type(block.nonlinearity) is nn.SiLU
        )

    def forward(self, input_tensor: Tensor, temb: Tensor | None, *args: Any, **kwargs: Any) -> Tensor:
        if temb is None or self.time_emb_proj is None or args or kwargs:
            return super().forward(input_tensor, temb, *args, **kwargs)  # pyright: ignore[reportArgumentType]
        shift = self.time_emb_proj(temb if self.skip_time_act else self.nonlinearity(temb))
        x = self.conv1(self.norm1(input_tensor, silu=True)) + shift[:, :, None, None]
        x = self.conv2(self.dropout(self.norm2(x, silu=True)))
        shortcut = input_tensor if self.conv_shortcut is None else self.conv_shortcut(input_tensor)
        return shortcut + x if self.output_scale_factor == 1 else (shortcut + x) / self.output_scale_factor


class FusedTransformer2DModel(Transformer2DModel):
    """Its tokens become a channels-last picture again by a view, not by a copy."""

    @staticmethod
    def can(block: Transformer2DModel) -> bool:
        return block.is_input_continuous and hasattr(block, "_get_output_for_continuous_inputs")

    def _get_output_for_continuous_inputs(
        self, hidden_states: Tensor, residual: Tensor, batch_size: int, height: int, width: int, inner_dim: int
    ) -> Tensor:
        def picture(tokens: Tensor) -> Tensor:
            return tokens.reshape(batch_size, height, width, inner_dim).permute(0, 3, 1, 2)

        if self.use_linear_projection:
            return picture(self.proj_out(hidden_states)) + residual
        return self.proj_out(picture(hidden_states)) + residual


class FusedGEGLU(GEGLU):
    kept: Keep

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return _behind_projection(self, super().forward, hidden_states, "gelu", True, *args, **kwargs)


class FusedSwiGLU(SwiGLU):
    kept: Keep

    def forward(self, hidden_states: Tensor) -> Tensor:
        return _behind_projection(self, super().forward, hidden_states, "silu", True)


class FusedGELU(GELU):
    kept: Keep

    def forward(self, hidden_states: Tensor) -> Tensor:
        function = "gelu" if self.approximate == "none" else "gelu_tanh"
        return _behind_projection(self, super().forward, hidden_states, function, False)


def _behind_projection(
    module: Any, plain: Any, hidden_states: Tensor, function: str, gated: bool, *args: Any, **kwargs: Any
) -> Tensor:
    """The activation of what `module.proj` gives; `plain` where no compiled code serves the tensor."""
    if args or kwargs or not is_fast(hidden_states):
        return plain(hidden_states, *args, **kwargs)
    activate = gated_activation if gated else activation
    return activate(module.proj(hidden_states), function, keep=module.kept)
