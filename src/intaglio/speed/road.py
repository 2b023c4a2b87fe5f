"""The command line's road: `intaglio train` on a pipeline with random weights, one step at a time.

    python -m intaglio.speed.road FOLDER '{"model": "sd15", ...}'      # writes the pipeline that is trained on

The denoiser has the asked shape; text encoders and VAE are small ones that fit it, since training encodes every text
and photo once, before the first step, and a step sees only what they gave.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from intaglio.errors import UserError
from intaglio.speed.models import new_denoiser, shape_named
from intaglio.speed.work import Work

SCHEDULE: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULE |= {"clip_sample": False, "steps_offset": 1}
STEPS = 10**6
"""Of the run: more than are ever asked for."""


def write_pipeline(work: Work, folder: Path) -> None:
    """A Stable Diffusion (XL) pipeline in bfloat16 whose denoiser has the shape of `work`.

    Raises:
        UserError: a denoiser of another family; `attach` alone can be measured then.
    """
    import torch
    from diffusers import DDPMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

    shape = shape_named(work.model)
    if shape.denoiser_class != "UNet2DConditionModel":
        raise UserError(f"{work.model}: `train:` measures U-Nets alone so far; leave it out, the bare methods remain")
    parts: dict[str, Any] = {
        "unet": new_denoiser(shape, "bfloat16"),
        "vae": _vae().bfloat16(),
        "tokenizer": _tokenizer(),
        "scheduler": DDPMScheduler(**SCHEDULE),
    }
    width = shape.config["cross_attention_dim"]
    torch.manual_seed(0)
    if shape.config.get("addition_embed_type") == "text_time":
        pooled = shape.config["projection_class_embeddings_input_dim"] - 6 * shape.config["addition_time_embed_dim"]
        parts |= {"text_encoder": _clip(width - pooled), "text_encoder_2": _clip(pooled, projection=True)}
        pipeline: Any = StableDiffusionXLPipeline(**parts, tokenizer_2=_tokenizer())
    else:
        rest = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline = StableDiffusionPipeline(**parts, text_encoder=_clip(width), **rest)  # type: ignore[arg-type]
    pipeline.save_pretrained(folder)


def training_step(method: str, work: Work, folder: Path) -> Callable[[], None]:
    """Begin `intaglio train --method METHOD --mixed_precision bf16` on the pipeline in `folder`; a call is a step.

    The first step is made here, since a run tells of its steps alone.
    """
    from intaglio.config import build
    from intaglio.events import Stepped
    from intaglio.training.loop import train
    from intaglio.training.recipe import Recipe

    recipe = build(
        Recipe,
        {
            "pretrained_model_name_or_path": str(folder),
            "method": method,
            "mixed_precision": "bf16",
            "instance_data_dir": Path(str(files("intaglio"))) / "assets" / "cat" / "train",
            "instance_prompt": "a photo of sks cat",
            "resolution": work.resolution,
            "train_batch_size": work.batch,
            "max_train_steps": STEPS,
            "output_dir": folder / f"out-{method}",
            "report_to": "none",
        },
        f"speed of {method}",
    )
    events = train(recipe)

    def step() -> None:
        while not isinstance(next(events), Stepped):
            pass

    step()
    return step


def _vae() -> Any:
    """Four levels of eight channels: 8 pixels a latent pixel, 4 latent channels."""
    from diffusers import AutoencoderKL

    levels: dict[str, Any] = {
        "block_out_channels": (8,) * 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    return AutoencoderKL(**levels, norm_num_groups=4)


def _tokenizer() -> Any:
    """The shipped base's: CLIP's, cut to its words."""
    from transformers import CLIPTokenizer

    from intaglio.checkpoints.inspect import embedded_base

    return CLIPTokenizer.from_pretrained(embedded_base() / "tokenizer", model_max_length=77)


def _clip(width: int, *, projection: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = _tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width,
        projection_dim=width,
        num_hidden_layers=1,
        num_attention_heads=4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).bfloat16()


def main() -> None:
    folder, given = sys.argv[1:]
    try:
        write_pipeline(Work(**json.loads(given)), Path(folder))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
