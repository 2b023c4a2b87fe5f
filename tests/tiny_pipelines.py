"""Small random pipelines of every family: real tokenizers, text encoders, VAE and denoiser, a few hundred kB each.

`make_pipeline("sd")` builds in memory; `tests/pipelines/conftest.py` offers them as saved folders.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

FAMILIES = ("sd", "sdxl", "sd3", "flux")
PIXELS = 16
"""Height and width of their pictures: 8 x 8 latents."""
TEXT_TOKENS = 16


def make_pipeline(family: str, seed: int = 0) -> Any:
    """A `StableDiffusionPipeline`, `StableDiffusionXLPipeline`, `StableDiffusion3Pipeline` or `FluxPipeline`.

    In float32, in evaluation mode; weights are random, the same for the same seed.
    """
    torch.manual_seed(seed)
    pipeline = {"sd": _make_sd, "sdxl": _make_sdxl, "sd3": _make_sd3, "flux": _make_flux}[family]()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(pipeline: Any, prompt: str | list[str] = "a red cat", *, steps: int = 2, seed: int = 0) -> torch.Tensor:
    """Latents of a short sampling run (no VAE), to compare bit for bit. Flux's are packed (B, tokens, channels)."""
    pipeline.set_progress_bar_config(disable=True)
    options = {"max_sequence_length": TEXT_TOKENS} if hasattr(pipeline, "transformer") else {}
    return pipeline(
        prompt,
        num_inference_steps=steps,
        height=PIXELS,
        width=PIXELS,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
        **options,
    ).images


def realign(pipeline: Any) -> Any:
    """Copy all float weights to memory of their own.

    What is loaded lies in the mapped file, where a tensor may start at any multiple of 8 bytes; then BLAS takes another
    path, and results differ in the last bit from those of the same weights elsewhere.
    """
    for module in pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            for parameter in module.parameters():
                parameter.data = parameter.data.clone()
    return pipeline


def tiny_clip_tokenizer() -> Any:
    """Letters and digits, alone and at the end of a word, in CLIP's own byte-level BPE."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,"
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {word: i for i, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=TEXT_TOKENS)


def tiny_t5_tokenizer() -> Any:
    from transformers import T5TokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((c, -3.0) for c in letters)]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=TEXT_TOKENS)


def tiny_clip(hidden: int = 24, *, projection: bool = False) -> Any:
    """A CLIP text encoder; with `projection`, its pooled output goes through a Linear of the same width."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = tiny_clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        projection_dim=hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TEXT_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def tiny_t5(hidden: int = 24) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(tiny_t5_tokenizer()), d_model=hidden, d_kv=8, d_ff=2 * hidden, num_layers=1, num_heads=2
    )
    return T5EncoderModel(config).eval()


def tiny_vae(shift_factor: float | None = None) -> Any:
    """Two levels: pictures are halved once, to 4 channels. Flow pipelines need a shift factor."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=PIXELS,
        shift_factor=shift_factor,
    ).eval()


def tiny_unet(cross_attention_dim: int = 24, **changes: Any) -> Any:
    """Down, middle and up blocks, cross-attention, 3x3 convolutions, strided and up-sampling ones."""
    from diffusers import UNet2DConditionModel

    options = {
        "sample_size": PIXELS // 2,
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": cross_attention_dim,
        "attention_head_dim": 8,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**{**options, **changes}).eval()


def _make_sd() -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        tokenizer=tiny_clip_tokenizer(),
        text_encoder=tiny_clip(),
        vae=tiny_vae(),
        unet=tiny_unet(),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _make_sdxl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    unet = tiny_unet(
        48,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 24,
    )
    return StableDiffusionXLPipeline(
        tokenizer=tiny_clip_tokenizer(),
        tokenizer_2=tiny_clip_tokenizer(),
        text_encoder=tiny_clip(),
        text_encoder_2=tiny_clip(projection=True),
        vae=tiny_vae(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading"),
        add_watermarker=False,
    )


def _make_sd3() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    transformer = SD3Transformer2DModel(
        sample_size=PIXELS // 2,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=48,
        pooled_projection_dim=48,
        pos_embed_max_size=8,
    )
    return StableDiffusion3Pipeline(
        tokenizer=tiny_clip_tokenizer(),
        tokenizer_2=tiny_clip_tokenizer(),
        tokenizer_3=tiny_t5_tokenizer(),
        text_encoder=tiny_clip(projection=True),
        text_encoder_2=tiny_clip(projection=True),
        text_encoder_3=tiny_t5(48),
        vae=tiny_vae(shift_factor=0.1),
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def _make_flux() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=24,
        pooled_projection_dim=24,
        axes_dims_rope=(2, 2, 4),
    )
    return FluxPipeline(
        tokenizer=tiny_clip_tokenizer(),
        tokenizer_2=tiny_t5_tokenizer(),
        text_encoder=tiny_clip(),
        text_encoder_2=tiny_t5(),
        vae=tiny_vae(shift_factor=0.1),
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
