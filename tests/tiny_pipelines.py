"""Small random pipelines of every family: real tokenizers, text encoders, VAE and denoiser, a few hundred kB each.

`make_pipeline("sd")` builds in memory; `tests/pipelines/conftest.py` offers them as saved folders.
"""

from __future__ import annotations

import functools
import os
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

FAMILIES = ("sd", "sdxl", "sd3", "flux")
CAPTIONS = ["a red cat on a mat", "a dog"]
"""Of different lengths."""
PIXELS = 16
"""Height and width of their pictures: 8 x 8 latents."""
TEXT_TOKENS = 16


def make_pipeline(family: str, seed: int = 0) -> Any:
    """A `StableDiffusionPipeline`, `StableDiffusionXLPipeline`, `StableDiffusion3Pipeline` or `FluxPipeline`.

    In float32, in evaluation mode; weights are random, the same for the same seed.
    """
    torch.manual_seed(seed)
    pipeline = MAKERS[family]()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(pipeline: Any, prompt: str | list[str] = "a red cat", *, steps: int = 2, seed: int = 0) -> torch.Tensor:
    """Latents of a short sampling run (no VAE), to compare bit for bit. Flux's are packed (B, tokens, channels)."""
    pipeline.set_progress_bar_config(disable=True)
    options = {"max_sequence_length": TEXT_TOKENS} if hasattr(pipeline, "transformer") else {}
    return pipeline(
        prompt=prompt,
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


def _make_flux(**changes: Any) -> Any:
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
        **changes,
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


CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FLOW_CONFIG = {"use_dynamic_shifting": True, "shift": 3.0, "base_shift": 0.5, "max_shift": 1.15}


def tiny_qwen_tokenizer() -> Any:
    """Every byte a token, the marks of a chat, padding to the right."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    vocab = {piece: i for i, piece in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(
        vocab=vocab, merges=[], unk_token="<|endoftext|>", pad_token="<|endoftext|>", eos_token="<|im_end|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.padding_side = "right"
    return tokenizer


def tiny_qwen3(layers: int = 2, hidden: int = 32) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tiny_qwen_tokenizer()),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=hidden // 2,
        max_position_embeddings=2048,
    )
    return Qwen3ForCausalLM(config).eval()


def _make_flux2_klein() -> Any:
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Transformer2DModel,
    )

    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=96,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=PIXELS,
    )
    vae.bn.running_mean.normal_()  # type: ignore[union-attr]
    vae.bn.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**FLOW_CONFIG),
        vae=vae.eval(),
        text_encoder=tiny_qwen3(layers=28),
        tokenizer=tiny_qwen_tokenizer(),
        transformer=transformer.eval(),
    )


def _make_z_image() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=64,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=32,
        axes_dims=[16, 8, 8],
        axes_lens=[1024, 32, 32],
    )
    with torch.no_grad():
        transformer.x_pad_token.normal_()
        transformer.cap_pad_token.normal_()
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=tiny_vae(shift_factor=0.1),
        text_encoder=tiny_qwen3(),
        tokenizer=tiny_qwen_tokenizer(),
        transformer=transformer.eval(),
    )


def tiny_qwen_vae() -> Any:
    from diffusers import AutoencoderKLQwenImage

    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 2.0, 0.5, 1.0],
    ).eval()


def _make_qwen_image() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = tiny_qwen_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": [2, 3, 3]},
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [0],
    }
    encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=32,
        axes_dims_rope=(8, 4, 4),
    )
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**FLOW_CONFIG),
        vae=tiny_qwen_vae(),
        text_encoder=encoder.eval(),
        tokenizer=tokenizer,
        transformer=transformer.eval(),
    )


def _make_krea2() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, Krea2Pipeline, Krea2Transformer2DModel
    from transformers import Qwen3VLConfig, Qwen3VLModel

    tokenizer = tiny_qwen_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3]},
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 32,
        "deepstack_visual_indexes": [0],
        "num_position_embeddings": 16,
    }
    transformer = Krea2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        timestep_embed_dim=32,
        text_hidden_dim=32,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=64,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(8, 4, 4),
    )
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if "scale_shift" in name:
                parameter.normal_(std=0.1)
    return Krea2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**{**FLOW_CONFIG, "max_image_seq_len": 6400}),
        vae=tiny_qwen_vae(),
        text_encoder=Qwen3VLModel(Qwen3VLConfig(text_config=text, vision_config=vision)).eval(),
        tokenizer=tokenizer,
        transformer=transformer.eval(),
        text_encoder_select_layers=(1, 2, 3),
    )


def _make_pixart() -> Any:
    from diffusers import DDIMScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    transformer = PixArtTransformer2DModel(
        sample_size=PIXELS // 2,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=32,
        cross_attention_dim=32,
        in_channels=4,
        out_channels=8,
        use_additional_conditions=False,
    )
    return PixArtSigmaPipeline(
        tokenizer=tiny_t5_tokenizer(),
        text_encoder=tiny_t5(32),
        vae=tiny_vae(),
        transformer=transformer.eval(),
        scheduler=DDIMScheduler(clip_sample=False),
    )


def _make_sana() -> Any:
    from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler, SanaPipeline, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    tokenizer = tiny_qwen_tokenizer()
    transformer = SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=4,
        attention_head_dim=8,
        num_cross_attention_heads=4,
        cross_attention_head_dim=8,
        cross_attention_dim=32,
        caption_channels=32,
        sample_size=PIXELS // 2,
    )
    vae = AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=Gemma2Model(config).eval(),
        vae=vae.eval(),
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


MAKERS = {
    "sd": _make_sd,
    "sdxl": _make_sdxl,
    "sd3": _make_sd3,
    "flux": _make_flux,
    "flux2-klein": _make_flux2_klein,
    "z-image": _make_z_image,
    "qwen-image": _make_qwen_image,
    "krea2": _make_krea2,
    "pixart": _make_pixart,
    "sana": _make_sana,
}

FLOWS = ("sd3", "flux", "flux2-klein", "z-image", "qwen-image", "krea2", "sana")
SIDES = {"sana": 32}
"""Height and width of images where `PIXELS` does not fit."""


@functools.cache
def pipeline_of(name: str) -> Any:
    """One for all tests that leave it as it is."""
    return make_pipeline(name)
