"""The parts of the base model: their shapes, how they are put together, saved whole and loaded again."""

import copy
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pretrain.captions import ASSETS
from pretrain.tokenizer import MAX_TOKENS

BASE = ASSETS / "base"
TEXT_WIDTH = 160
MAX_FILE = "14MB"  # every file stays under 15 MB

Part = TypeVar("Part", bound=torch.nn.Module)


@dataclass
class Parts:
    """The trained parts of one pipeline."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    unet: UNet2DConditionModel


def new_unet() -> UNet2DConditionModel:
    """10 M parameters on (B, 16, 8, 8) latents. As in SDXL, cross-attention begins one level down (4 x 4 here)."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=16,
        out_channels=16,
        block_out_channels=(96, 128, 176),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(6, 8, 11),  # pyright: ignore[reportArgumentType]  the number of heads, by an old mistake of diffusers; 16 channels each
        cross_attention_dim=TEXT_WIDTH,
        addition_embed_type="text",  # the pooled text joins the time embedding: reaches every block, learns sooner
        addition_embed_type_num_heads=5,
        norm_num_groups=16,
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two transformer layers over 32 tokens, trained from scratch with the U-Net."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=5,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,  # pyright: ignore[reportArgumentType]
            eos_token_id=tokenizer.eos_token_id,  # pyright: ignore[reportArgumentType]
            pad_token_id=tokenizer.pad_token_id,  # pyright: ignore[reportArgumentType]
        )
    )


def new_scheduler() -> DDIMScheduler:
    """v-prediction down to zero signal, so that plain backgrounds come out as asked (Lin et al. 2024)."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # without effect under trailing spacing; diffusers warns of 0
    )


def pipeline(parts: Parts) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        scheduler=new_scheduler(),  # pyright: ignore[reportArgumentType]
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )


def save_base(parts: Parts, folder: Path) -> None:
    """Write the pipeline in float16, the folder replaced at once; other files in it (the model card) are kept."""
    partial, old = folder.with_name(folder.name + ".partial"), folder.with_name(folder.name + ".old")
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    halves = Parts(parts.tokenizer, _half(parts.text_encoder), _half(parts.vae), _half(parts.unet))
    pipeline(halves).save_pretrained(partial, max_shard_size=MAX_FILE)
    for name in ("vocab.json", "merges.txt"):  # for releases of transformers that read only these
        source = Path(parts.tokenizer.name_or_path) / name
        if source.exists():
            shutil.copy(source, partial / "tokenizer" / name)
    if folder.exists():
        for kept in folder.iterdir():
            if kept.is_file() and kept.name != "model_index.json":
                shutil.copy(kept, partial / kept.name)
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _half(part: Part) -> Part:
    """A float16 copy for saving, with the layout that files have."""
    copied = copy.deepcopy(part).to(dtype=torch.float16)
    return copied.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]


def load_base(folder: Path = BASE) -> Parts:
    """The parts in float32, ready to train further."""
    if not (folder / "model_index.json").exists():
        raise SystemExit(f"{folder} holds no pipeline. Train one first: python -m pretrain")
    loaded = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    return Parts(loaded.tokenizer, loaded.text_encoder, loaded.vae, loaded.unet)
