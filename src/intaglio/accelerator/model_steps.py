"""Fine-tuning steps of published models, from their shapes: SD 1.x and SDXL U-Nets, and a PixArt-like DiT.

Shapes: diffusers' `UNet2DConditionModel` and `PixArtTransformer2DModel` configurations of the released checkpoints.
Batch 1. Text encoder and VAE run before the step (cached) and are not part of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from intaglio.accelerator.step_builder import Method, StepBuilder, Tensor
from intaglio.errors import UnknownChoice
from intaglio.trace.schema import Trace


@dataclass(frozen=True, slots=True)
class UNetShape:
    """Configuration of a diffusers U-Net; `depth` is the number of transformer blocks per attention, 0 for none."""

    name: str
    latent_hw: int
    channels: tuple[int, ...]
    depth: tuple[int, ...]
    mid_depth: int
    heads: tuple[int, ...]
    context_tokens: int
    context_features: int
    linear_projection: bool
    added_features: int = 0  # SDXL's pooled text and size embedding


SD15 = UNetShape("sd15", 64, (320, 640, 1280, 1280), (1, 1, 1, 0), 1, (8, 8, 8, 8), 77, 768, False)
SDXL = UNetShape("sdxl", 128, (320, 640, 1280), (0, 2, 10), 10, (5, 10, 20), 77, 2048, True, 2816)


def unet_step(shape: UNetShape, rank: int = 16, method: Method = "lora", bits: int = 8) -> Trace:
    """One step that fine-tunes the U-Net; LoRA on every attention's q, k, v, out."""
    net = _UNet(shape, StepBuilder(shape.name, method, rank, bits))
    net.build()
    return net.step.trace(resolution=shape.latent_hw * 8, batch_size=1)


@dataclass
class _UNet:
    """Walks the network once. `hw` is the side of the current feature map."""

    shape: UNetShape
    step: StepBuilder
    hw: int = 0

    def build(self) -> None:
        shape, step = self.shape, self.step
        self.hw = shape.latent_hw
        full = step.method != "lora"
        self.text = Tensor("text", shape.context_tokens, shape.context_features, False)
        self.time = self._time_embedding()
        x = step.convolution("conv_in", Tensor("latent", self.hw**2, 4, False), shape.channels[0], 3, self.hw)
        x = replace(x, grad=full)
        skips = [(x, self.hw)]
        last = len(shape.channels) - 1
        for i, channels in enumerate(shape.channels):
            for j in range(2):
                x = self._resnet(f"down_blocks.{i}.resnets.{j}", x, channels)
                x = self._transformer(f"down_blocks.{i}.attentions.{j}", x, shape.depth[i], shape.heads[i])
                skips.append((x, self.hw))
            if i < last:
                x = step.convolution(f"down_blocks.{i}.downsamplers.0.conv", x, channels, 3, self.hw, stride=2)
                self.hw //= 2
                skips.append((x, self.hw))
        x = self._resnet("mid_block.resnets.0", x, shape.channels[-1])
        x = self._transformer("mid_block.attentions.0", x, shape.mid_depth, shape.heads[-1])
        x = self._resnet("mid_block.resnets.1", x, shape.channels[-1])
        for i, channels in enumerate(reversed(shape.channels)):
            for j in range(3):
                skip, _ = skips.pop()
                name = f"up_blocks.{i}.resnets.{j}"
                joined = Tensor(f"{name}:x", x.rows, x.features + skip.features, x.grad or skip.grad)
                x = self._resnet(name, joined, channels)
                x = self._transformer(f"up_blocks.{i}.attentions.{j}", x, shape.depth[last - i], shape.heads[last - i])
            if i < last:
                self.hw *= 2
                up = Tensor(f"up_blocks.{i}.upsampled", self.hw**2, channels, x.grad)
                x = step.convolution(f"up_blocks.{i}.upsamplers.0.conv", up, channels, 3, self.hw)
        self._norm("group_norm", "conv_norm_out", x)
        step.convolution("conv_out", x, 4, 3, self.hw)

    def _time_embedding(self) -> Tensor:
        base = self.shape.channels[0]
        hidden = self.step.linear("time_embedding.linear_1", Tensor("time", 1, base, False), 4 * base)
        hidden = self.step.linear("time_embedding.linear_2", hidden, 4 * base)
        if self.shape.added_features:
            added = Tensor("added", 1, self.shape.added_features, False)
            added = self.step.linear("add_embedding.linear_1", added, 4 * base)
            self.step.linear("add_embedding.linear_2", added, 4 * base)
        return hidden

    def _norm(self, kind: str, layer: str, x: Tensor) -> None:
        self.step.vector(kind, layer, x.rows * x.features, x.grad)

    def _resnet(self, layer: str, x: Tensor, channels: int) -> Tensor:
        step = self.step
        self._norm("group_norm", f"{layer}.norm1", x)
        self._norm("silu", f"{layer}.nonlinearity", x)
        normed = replace(x, name=f"{layer}.norm1:y")
        h = step.convolution(f"{layer}.conv1", normed, channels, 3, self.hw)
        t = step.linear(f"{layer}.time_emb_proj", self.time, channels)
        h = replace(h, grad=h.grad or t.grad)
        self._norm("group_norm", f"{layer}.norm2", h)
        self._norm("silu", f"{layer}.nonlinearity2", h)
        h = step.convolution(f"{layer}.conv2", h, channels, 3, self.hw)
        if x.features != channels:
            x = step.convolution(f"{layer}.conv_shortcut", x, channels, 1, self.hw)
        self._norm("add", f"{layer}.add", h)
        return Tensor(f"{layer}:out", h.rows, channels, h.grad or x.grad)

    def _transformer(self, layer: str, x: Tensor, depth: int, heads: int) -> Tensor:
        if depth == 0:
            return x
        step, features = self.step, x.features
        self._norm("group_norm", f"{layer}.norm", x)
        h = replace(x, name=f"{layer}.norm:y")
        h = self._project(f"{layer}.proj_in", h, features)
        for block in range(depth):
            h = transformer_block(step, f"{layer}.transformer_blocks.{block}", h, self.text, heads, gated=True)
        h = self._project(f"{layer}.proj_out", h, features)
        self._norm("add", f"{layer}.add", h)
        return replace(h, name=f"{layer}:out")

    def _project(self, layer: str, x: Tensor, features: int) -> Tensor:
        if self.shape.linear_projection:
            return self.step.linear(layer, x, features)
        return self.step.convolution(layer, x, features, 1, self.hw)


def transformer_block(step: StepBuilder, layer: str, x: Tensor, text: Tensor, heads: int, gated: bool) -> Tensor:
    """Self-attention, cross-attention, feed-forward, each after a norm and before an add."""
    features, elements = x.features, x.rows * x.features
    for name in ("attn1", "attn2"):
        step.vector("layer_norm", f"{layer}.{name}.norm", elements, x.grad)
        normed = replace(x, name=f"{layer}.{name}:x")
        source = normed if name == "attn1" else text
        q = step.linear(f"{layer}.{name}.to_q", normed, features, adapted=True)
        k = step.linear(f"{layer}.{name}.to_k", source, features, adapted=True)
        v = step.linear(f"{layer}.{name}.to_v", source, features, adapted=True)
        y = step.attention(f"{layer}.{name}", q, k, v, heads)
        y = step.linear(f"{layer}.{name}.to_out.0", y, features, adapted=True)
        step.vector("add", f"{layer}.{name}.add", elements, y.grad)
        x = Tensor(f"{layer}.{name}:out", x.rows, features, x.grad or y.grad)
    step.vector("layer_norm", f"{layer}.ff.norm", elements, x.grad)
    inner = 4 * features
    h = step.linear(f"{layer}.ff.net.0.proj", replace(x, name=f"{layer}.ff:x"), 2 * inner if gated else inner)
    step.vector("geglu" if gated else "gelu", f"{layer}.ff", x.rows * inner, h.grad)
    h = step.linear(f"{layer}.ff.net.2", Tensor(f"{layer}.ff:h", x.rows, inner, h.grad), features)
    step.vector("add", f"{layer}.ff.add", elements, h.grad)
    return Tensor(f"{layer}:out", x.rows, features, h.grad)


def dit_step(rank: int = 16, method: Method = "lora", bits: int = 8) -> Trace:
    """PixArt-alpha at 512 px: 28 blocks of 1152 features, 16 heads, 1024 image tokens, 120 text tokens."""
    step = StepBuilder("dit", method, rank, bits)
    features, full = 1152, method != "lora"
    text = step.linear("caption_projection.linear_1", Tensor("text", 120, 4096, False), features)
    text = step.linear("caption_projection.linear_2", text, features)
    text = replace(text, name="caption", grad=full)
    time = step.linear("adaln_single.emb.timestep_embedder.linear_1", Tensor("time", 1, 256, False), features)
    time = step.linear("adaln_single.emb.timestep_embedder.linear_2", time, features)
    step.linear("adaln_single.linear", time, 6 * features)
    x = step.linear("pos_embed.proj", Tensor("latent", 1024, 16, False), features)
    for block in range(28):
        x = transformer_block(step, f"transformer_blocks.{block}", x, text, 16, gated=False)
    step.vector("layer_norm", "norm_out", x.rows * features, x.grad)
    step.linear("proj_out", x, 32)
    return step.trace(resolution=512, batch_size=1)


MODEL_STEPS: dict[str, Callable[[int, Method, int], Trace]] = {
    "sd15": lambda rank, method, bits: unet_step(SD15, rank, method, bits),
    "sdxl": lambda rank, method, bits: unet_step(SDXL, rank, method, bits),
    "dit": dit_step,
}


def model_step(model: str, rank: int = 16, method: Method = "lora", bits: int = 8) -> Trace:
    """The step of a published model by name."""
    if model not in MODEL_STEPS:
        raise UnknownChoice("model", model, MODEL_STEPS)
    return MODEL_STEPS[model](rank, method, bits)
