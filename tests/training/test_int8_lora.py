"""`int8_lora` through the training loop."""

import torch
from safetensors.torch import load_file

from intaglio.methods.adapter_file import LORA_FILE
from intaglio.training.run import train


def test_stochastic_rounding_survives_resuming_and_checkpointed_blocks(recipe, tmp_path):
    """The dither is a function of the gradient: a resumed run, and blocks that run twice, round in the same way."""
    options = {
        "method": "int8_lora",
        "rank": 2,
        "scale": "power_of_two",
        "rounding": "stochastic",
        "max_train_steps": 4,
        "checkpointing_steps": 2,
        "targets": ("to_q", "to_v"),
    }
    whole = recipe(output_dir=tmp_path / "whole", **options)
    train(whole)
    first = recipe(output_dir=tmp_path / "first", **options, gradient_checkpointing=True)
    train(first)
    (tmp_path / "first" / "checkpoint-4").rename(tmp_path / "gone")
    train(first.model_copy(update={"resume_from_checkpoint": "latest"}))
    expected, got = load_file(whole.output_dir / LORA_FILE), load_file(first.output_dir / LORA_FILE)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
