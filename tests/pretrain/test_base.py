"""The pipeline that ships: loads as any other, is small, generates, and no word is unknown to its tokenizer."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from pretrain.base import BASE
from pretrain.captions import backgrounds
from pretrain.sample import background_of

MAX_BASE_BYTES, MAX_FILE_BYTES = 30 * 10**6, 15 * 10**6


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(BASE, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_size_on_disk():
    sizes = {path: path.stat().st_size for path in BASE.rglob("*") if path.is_file()}
    weights = [size for path, size in sizes.items() if path.suffix == ".safetensors"]
    assert sum(sizes.values()) < MAX_BASE_BYTES
    assert max(weights) < MAX_FILE_BYTES


def test_every_kind_of_block_is_there(pipe):
    names = {type(module).__name__ for module in pipe.unet.modules()}
    assert {
        "DownBlock2D",
        "CrossAttnDownBlock2D",
        "UNetMidBlock2DCrossAttn",
        "CrossAttnUpBlock2D",
        "UpBlock2D",
    } <= names
    assert any(module.kernel_size == (3, 3) for module in pipe.unet.modules() if isinstance(module, torch.nn.Conv2d))


def test_it_generates_a_finite_picture(pipe):
    generator = torch.Generator().manual_seed(0)
    prompt = "a noto emoji of a red apple on a blue background"
    pixels = pipe(prompt, num_inference_steps=2, output_type="np", generator=generator).images
    assert pixels.shape == (1, 64, 64, 3)
    assert np.isfinite(pixels).all()


@pytest.mark.parametrize("text", ["a sks cat on a blue background", "zyxq 42 ünïcode", "漢字"])
def test_tokenizer_round_trips_words_it_never_saw(pipe, text):
    ids = pipe.tokenizer(text).input_ids
    assert pipe.tokenizer.unk_token_id not in ids[1:-1]
    assert pipe.tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")


def test_common_words_are_one_token(pipe):
    for word in ("apple", "background", "twemoji", "sks", "cat", *backgrounds()):
        assert len(pipe.tokenizer(word).input_ids) == 3, word


def test_background_is_read_from_the_border():
    for name, rgb in backgrounds().items():
        picture = np.full((64, 64, 3), rgb, dtype=np.uint8)
        picture[8:56, 8:56] = 255 - picture[8:56, 8:56]
        assert background_of(picture) == name


def test_the_pipeline_says_what_it_is():
    index = json.loads((BASE / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["requires_safety_checker"] is False
    scheduler = json.loads((BASE / "scheduler/scheduler_config.json").read_text())
    assert scheduler["prediction_type"] == "v_prediction"
    assert scheduler["timestep_spacing"] == "trailing"
