"""The loop from recipe to files, on a tiny random pipeline."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from intaglio.adapters.header import find_file, read_header
from intaglio.errors import Problems, UserError
from intaglio.methods.registry import METHODS
from intaglio.training.checkpoint import list_checkpoints
from intaglio.training.loop import fit
from intaglio.training.plan import plan
from intaglio.training.setup import plan_run

TABLE = [
    "method",
    "base_format",
    "trainable_parameters",
    "adapter_bytes",
    "base_bytes",
    "peak_memory_bytes",
    "seconds_per_step",
    "steps",
    "loss_first",
    "loss_last",
    "scores",
]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_trains_and_says_what_it_made(method, recipe):
    made = recipe(method=method, max_train_steps=8)
    summary = fit(made)
    written = json.loads((made.output.output_dir / "summary.json").read_text())
    assert set(TABLE) <= set(written)
    assert written["loss_last"] < written["loss_first"]
    assert written["adapter_bytes"] == find_file(made.output.output_dir).stat().st_size
    assert written["trainable_parameters"] == sum(
        t.numel() for t in load_file(find_file(made.output.output_dir)).values()
    )
    assert summary.base_format == (METHODS[method].default_base if METHODS[method].needs_base else None)
    assert "load_adapter" in (made.output.output_dir / "README.md").read_text()


@pytest.mark.parametrize("changes", [{"method": "lora", "rank": 2}, {"ema_decay": 0.9, "lr_scheduler": "cosine"}])
def test_resume_goes_on_bit_for_bit(changes, resumed):
    whole, went_on = resumed(6, **changes)
    assert whole
    torch.testing.assert_close(went_on, whole, rtol=0, atol=0)


def test_old_checkpoints_go_when_the_new_one_is_there(recipe):
    made = recipe(max_train_steps=3, checkpointing_steps=1, checkpoints_total_limit=2)
    fit(made)
    assert [p.name for p in list_checkpoints(made.output.output_dir)] == ["checkpoint-2", "checkpoint-3"]


def test_resume_refuses_another_run(recipe):
    with pytest.raises(UserError, match="no checkpoint to resume from; leave out --resume_from_checkpoint"):
        fit(recipe(resume_from_checkpoint="latest"))
    fit(recipe(max_train_steps=1, checkpointing_steps=1))
    with pytest.raises(Problems, match=r"learning_rate: was 0.01, now 0.5"):
        fit(recipe(resume_from_checkpoint="latest", learning_rate=0.5))


def test_accumulation_is_the_larger_batch(recipe, tmp_path):
    """Two batches of one, accumulated, are one batch of two."""
    # SGD: a step is linear in the gradient, where Adam makes a full step of a rounding error
    # and float products: of two numbers that differ by a rounding error, codes may differ by one
    same = {"optimizer": "sgd", "learning_rate": 0.1, "max_train_steps": 2, "method": "qlora", "rank": 2}
    same["compute"] = "float"
    one = recipe(output_dir=tmp_path / "a", train_batch_size=2, **same)
    two = recipe(output_dir=tmp_path / "b", train_batch_size=1, gradient_accumulation_steps=2, **same)
    fit(one)
    fit(two)
    expected, got = load_file(find_file(one.output.output_dir)), load_file(find_file(two.output.output_dir))
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-3, atol=1e-4)


def test_prior_pictures_are_made_once_and_trained_on(recipe, tmp_path):
    made = recipe(
        with_prior_preservation=True,
        class_data_dir=tmp_path / "class",
        class_prompt="a photo of a square",
        num_class_images=2,
        max_train_steps=1,
    )
    fit(made)
    pictures = {p: p.stat().st_mtime_ns for p in (tmp_path / "class").glob("*.png")}
    assert len(pictures) == 2
    fit(made)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "class").glob("*.png")} == pictures


def test_validation_pictures(recipe):
    made = recipe(validation_prompt=("a red square", "a cup"), validation_steps=2, num_validation_images=1)
    fit(made)
    names = sorted(p.name for p in (made.output.output_dir / "samples").iterdir())
    assert names == ["final.png", "step-2.png"]
    assert Image.open(made.output.output_dir / "samples" / "final.png").width > 100


def test_xl_trains(recipe, sdxl_folder):
    made = recipe(pretrained_model_name_or_path=str(sdxl_folder), max_train_steps=6, gradient_checkpointing=True)
    summary = fit(made)
    assert summary.loss_last < summary.loss_first


@pytest.mark.parametrize("targets", [None, ("all",)])
def test_lora_file_loads_in_plain_diffusers_with_its_alpha(recipe, sd_folder, targets):
    from diffusers import StableDiffusionPipeline

    import intaglio
    from intaglio.checkpoints.load import load_pipeline

    made = recipe(method="lora", rank=4, lora_alpha=2.0, max_train_steps=4, targets=targets)
    fit(made)
    ours = load_pipeline(sd_folder)
    intaglio.load_adapter(ours.unet, made.output.output_dir)
    theirs = StableDiffusionPipeline.from_pretrained(sd_folder)
    before = theirs.unet(torch.ones(1, 4, 8, 8), 500, torch.ones(1, 16, 24)).sample
    theirs.load_lora_weights(made.output.output_dir)
    arguments = (torch.ones(1, 4, 8, 8), 500, torch.ones(1, 16, 24))
    expected, got = ours.unet(*arguments).sample, theirs.unet(*arguments).sample
    assert not torch.allclose(got, before, atol=1e-4), "the LoRA changed nothing"
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_all_mistakes_at_once_before_anything_is_loaded(recipe, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.png").write_bytes(b"\x89PNG nothing")
    made = recipe(
        instance_data_dir=tmp_path / "bad", method="lora", compute="integer", pretrained_model_name_or_path="/nowhere"
    )
    with pytest.raises(Problems) as caught:
        fit(made)
    text = str(caught.value)
    assert "method lora trains beside float weights" in text
    assert "/nowhere" in text
    assert "broken.png" in text
    assert not made.output.output_dir.exists()


def test_a_loss_that_is_not_finite_stops_the_run(recipe):
    with pytest.raises(UserError, match="the loss became"):
        fit(recipe(method="lora", learning_rate=1e4, max_grad_norm=1e30, max_train_steps=40))


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batch(recipe, tmp_path):
    """Per-step losses and the adapter of two CPU processes against one process with twice the batch."""
    same = {"optimizer": "sgd", "learning_rate": 0.1, "max_train_steps": 3}
    single = recipe(output_dir=tmp_path / "one", train_batch_size=2, **same)
    fit(single)
    double = recipe(output_dir=tmp_path / "two", train_batch_size=1, **same)
    config = tmp_path / "recipe.toml"
    told = json.loads(double.model_dump_json(exclude_unset=True))
    values = {key: value for section in told.values() for key, value in section.items()}
    config.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items()))
    # `accelerate launch --cpu` starts several processes only through MPI; torchrun needs nothing more
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["-m", "intaglio.cli", "train", str(config)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    expected, got = load_file(find_file(single.output.output_dir)), load_file(find_file(double.output.output_dir))
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_validation_pictures_in_half_precision(recipe, precision):
    made = recipe(method="qlora", mixed_precision=precision, max_train_steps=1, validation_prompt=("a cat",))
    fit(made)
    assert list((made.output.output_dir / "samples").glob("*.png"))


def test_a_resumed_run_computes_as_it_did(recipe, monkeypatch):
    """Also on another machine."""
    made = recipe(method="tuneqdm", max_train_steps=2, checkpointing_steps=1)
    monkeypatch.setattr("intaglio.methods.settle.why_not_integer", lambda *_: "no kernels in this test")
    assert plan(made).settled.compute == "float"
    fit(made)
    monkeypatch.undo()
    resumed = made.changed(resume_from_checkpoint=str(made.output.output_dir / "checkpoint-1"))
    assert plan_run(resumed)[0].settled.compute == "float"
    fit(resumed)


def test_a_named_default_is_the_default(recipe, tmp_path):
    """`intaglio train` and `intaglio train --method int8_lora` are one thing."""
    headers = []
    for name, options in {"open": {}, "named": {"method": "int8_lora"}}.items():
        fit(recipe(max_train_steps=1, output_dir=tmp_path / name, **options))
        headers.append(read_header(tmp_path / name))
    assert headers[0] == headers[1]
    assert (headers[0].method, headers[0].options["rank"]) == ("int8_lora", 2)
    assert any(n.endswith("conv1") for n in headers[0].layers), "beside every layer"


def test_a_quantized_base_that_the_method_cannot_train_over_is_refused_before_it_is_loaded(recipe, sd_folder, tmp_path):
    from intaglio.checkpoints.quantize import quantize_pipeline

    quantize_pipeline(str(sd_folder), tmp_path / "nf4", format="nf4")
    with pytest.raises(Problems, match=r"int8_lora cannot train over nf4.* or method qlora"):
        fit(recipe(pretrained_model_name_or_path=str(tmp_path / "nf4")))
