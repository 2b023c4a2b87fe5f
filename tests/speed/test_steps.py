"""Both roads step for real on a tiny shape; the whole, process by process, is slow and marked so."""

from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from intaglio.errors import UnknownChoice, UserError
from intaglio.families.shape import Shape
from intaglio.speed import models, road, steps, worker
from intaglio.speed.variants import BASELINES, DEFAULT, METHODS, OPTIONS, REFERENCE, TRAIN, VARIANTS
from intaglio.speed.work import Work

TINY = Shape(
    "tiny",
    "UNet2DConditionModel",
    {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 24,
        "attention_head_dim": 8,
        "norm_num_groups": 4,
    },
    64,
)
WORK = Work("tiny", 64, 1, 1)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    for module in (models, road, steps, worker):
        monkeypatch.setattr(module, "shape_named", lambda name: TINY)


def test_the_default_compares_both_roads_with_bfloat16_lora():
    assert DEFAULT[0] == REFERENCE == "peft-bf16"
    assert set(DEFAULT[1:]) == {*METHODS, *(TRAIN + name for name in METHODS)}


@pytest.mark.parametrize("name", ["peft-bf16", "qlora", "tuneqdm", "int8_lora-int4", "qlora-float"])
def test_a_training_step_changes_what_is_trained(name, tmp_path):
    trained = []
    variant = replace(VARIANTS[name], prepare=_noted(VARIANTS[name].prepare, trained))
    step = worker.prepare(variant, WORK, tmp_path)
    step()
    before = [p.detach().clone() for p in trained]
    step()
    assert any(not torch.equal(a, b) for a, b in zip(before, trained, strict=True))


def _noted(prepare, trained):
    def noted(denoiser):
        trained[:] = prepare(denoiser)
        return trained

    return noted


def test_an_image_is_drawn_by_every_kind(tmp_path):
    for name in ("bf16", "qlora"):
        worker.prepare(VARIANTS[name], Work("tiny", 64, 1, 1, "generate"), tmp_path)()


def test_the_command_lines_road(tmp_path):
    road.write_pipeline(WORK, tmp_path)
    step = worker.prepare(VARIANTS["train:qlora"], WORK, tmp_path)
    step()
    step()


def test_a_profile_names_operations_and_adds_the_rest():
    from intaglio.speed.profile import TOP, profile

    x = torch.randn(64, 64, requires_grad=True)

    def step():
        (x @ x).relu().softmax(-1).exp().sum().backward()

    found = profile(step)
    assert len(found) <= TOP + 1
    assert "aten::mm" in {row["name"] for row in found}
    times = [row["seconds"] for row in found[:TOP]]
    assert times == sorted(times, reverse=True)


def test_what_cannot_be_measured_is_said():
    with pytest.raises(UnknownChoice, match=r"unknown variant 'qlroa' \(did you mean 'qlora'\?\)"):
        steps.check(["qlroa"], WORK)
    with pytest.raises(UserError, match="train:qlora trains; for images name qlora"):
        steps.check(["train:qlora"], Work("tiny", task="generate"))
    missing = [v for v in BASELINES.values() if v.missing_package()]
    told = []
    for variant in missing:
        assert steps._left_out(variant, told.append)
    assert len(told) == len(missing)


def test_variants_are_told_apart():
    titles = [variant.title for variant in VARIANTS.values()]
    assert len(set(titles)) == len(titles)
    assert all(variant.ours for variant in OPTIONS.values())


@pytest.mark.slow
def test_beside_each_other_in_one_run(tmp_path, monkeypatch):
    monkeypatch.undo()
    from intaglio.cli import group

    out = tmp_path / "step.jsonl"
    flags = "--model small --resolution 64 --steps 1 --threads 1 --methods peft-bf16,train:qlora,qlora --profile"
    done = CliRunner().invoke(group, ["speed", "step", *flags.split(), "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0
    for title in ("diffusers + PEFT LoRA, bfloat16", "intaglio train --method qlora", "attach(unet, QLora())"):
        assert f"| {title} |" in done.output
        assert f"## {title}: where a step's time goes" in done.output
    again = CliRunner().invoke(group, ["speed", "render", str(out)], catch_exceptions=False)
    assert again.output.strip() == out.with_suffix(".md").read_text().strip()
