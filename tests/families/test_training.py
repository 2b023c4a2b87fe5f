"""Every family through the whole road: methods, intervals, train, resume, validation, generate, trace, a LoRA file."""

from __future__ import annotations

import shutil

import pytest
import torch
from click.testing import CliRunner
from diffusers import DiffusionPipeline
from PIL import Image, ImageDraw
from safetensors.torch import load_file

import intaglio
from intaglio.adapters.header import find_file, read_header
from intaglio.cli.generate import command as generate
from intaglio.cli.trace import command as trace
from intaglio.diffusion.objective import ObjectiveOptions
from intaglio.errors import UserError
from intaglio.families.registry import denoisers_of, family_of_pipeline
from intaglio.methods.registry import METHODS
from intaglio.training.batches import Batch
from intaglio.training.loop import fit
from intaglio.training.recipe import Recipe
from intaglio.training.step import Loss
from tiny_pipelines import CAPTIONS, FLOWS, PIXELS, SIDES, make_pipeline, pipeline_of, realign

FAMILIES = (*FLOWS, "pixart")


def step_of(name, seed=0):
    """A fresh pipeline, its family, objective, and a batch of two noise levels."""
    pipe = make_pipeline(name)
    family = family_of_pipeline(type(pipe).__name__)
    side = SIDES.get(name, PIXELS)
    objective = family.objective(pipe, ObjectiveOptions(), side)
    generator = torch.Generator().manual_seed(seed)
    mean, _ = family.encode_images(pipe, torch.rand(2, 3, side, side, generator=generator))
    x0 = torch.stack([family.normalize(pipe, latent) for latent in mean])
    conditioning = family.encode_text(pipe, CAPTIONS)
    told = family.image_conditioning((side, side), (0, 0), side)
    conditioning |= {key: torch.tensor([value, value]) for key, value in told.items()}
    t = objective.times(torch.tensor([0.2, 0.8], dtype=torch.float64))
    noise = torch.randn(x0.shape, generator=generator)
    return pipe, family, objective, Batch(x0, noise, t, conditioning, torch.ones(2))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_method_learns(name):
    """A few steps on one batch lower its loss, and every trained tensor gets a gradient."""
    for method in METHODS:
        pipe, family, objective, batch = step_of(name)
        torch.manual_seed(0)
        adapter = intaglio.attach(pipe.transformer, METHODS[method](), range_search="absmax")
        pipe.transformer.train()
        loss_of = Loss(family, objective, adapter.times)
        rate = 1e-3 if method == "full" else 1e-2
        optimizer = torch.optim.AdamW(adapter.parameters(), lr=rate, weight_decay=0)
        losses = []
        for _ in range(6):
            optimizer.zero_grad()
            loss = loss_of(pipe.transformer, batch, samples=2)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert min(losses[1:]) < losses[0], (method, losses)
        assert any(p.grad is not None and p.grad.any() for p in adapter.parameters()), method


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("num_intervals", [4, 16])
def test_a_pipeline_call_finds_the_intervals_of_training(name, num_intervals):
    """Sampling under guidance: at each step the interval of the scheduler's noise level, for every sample."""
    pipe, family, _, _ = step_of(name)
    adapter = intaglio.attach(pipe.transformer, intaglio.TuneQDM(num_intervals=num_intervals), base="int4")
    seen = []

    def after(*_):
        selection = adapter.times.current()
        seen.append({selection.touched[row] for row in selection.rows.tolist()})

    pipe.transformer.register_forward_hook(after)
    side = SIDES.get(name, PIXELS)
    told = [family.encode_text(pipe, [caption]) for caption in CAPTIONS]
    pipe(
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=4,
        output_type="latent",
        **family.sample_arguments(*told, side),
    )
    steps = pipe.scheduler.timesteps.double() / 1000
    expected = [{min(num_intervals - 1, int((t + 1e-6) * num_intervals))} for t in steps.tolist()]
    calls = len(seen) // len(expected)
    assert seen == [each for each in expected for _ in range(calls)]
    assert len({next(iter(each)) for each in expected}) > 1


@pytest.mark.parametrize("name", FLOWS)
def test_default_targets_are_the_scripts(name):
    """Every name of the family's list is there; joint attention's other half is trained too."""
    pipe = make_pipeline(name)
    adapter = intaglio.attach(pipe.transformer, intaglio.Lora(rank=2))
    trained = set(adapter.layers)
    for target in denoisers_of(pipe.transformer).attention_targets:
        assert any(layer.endswith("." + target) or layer == target for layer in trained), target
    if name in ("sd3", "flux"):
        assert any(layer.endswith("add_k_proj") for layer in trained)
    assert len(trained) < sum(isinstance(m, torch.nn.Linear) for m in pipe.transformer.modules())


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, caption in enumerate(("a red square", "sks square on a table")):
        image = Image.new("RGB", (32, 32), "white")
        ImageDraw.Draw(image).rectangle((4, 4, 16 + 4 * number, 20), fill="red")
        image.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption)
    return folder


def recipe(folder, photos, out, name, **changes):
    values = {
        "pretrained_model_name_or_path": str(folder),
        "instance_data_dir": photos,
        "resolution": SIDES.get(name, PIXELS),
        "output_dir": out,
        "max_train_steps": 2,
        "train_batch_size": 2,
        "range_search": "absmax",
        "report_to": "none",
        "learning_rate": 1e-2,
        "method": "lora",
        "rank": 4,
        "lora_alpha": 2.0,
    }
    return Recipe.model_validate({**values, **changes})


@pytest.mark.parametrize("name", FAMILIES)
def test_train_and_the_lora_loads_in_plain_diffusers(name, folder_of, photos, tmp_path):
    """Captions of two lengths, prior preservation, validation images; then the file in `load_lora_weights`."""
    folder = folder_of(name)
    made = recipe(
        folder,
        photos,
        tmp_path / "out",
        name,
        with_prior_preservation=True,
        class_data_dir=tmp_path / "class",
        class_prompt="a square",
        num_class_images=1,
        validation_prompt=("a cup",),
        num_validation_images=1,
        gradient_checkpointing=True,
    )
    summary = fit(made)
    assert summary.loss_first > 0
    assert list((tmp_path / "out" / "samples").glob("*.png"))
    assert Image.open(next((tmp_path / "class").glob("*.png"))).width == SIDES.get(name, PIXELS)
    header = read_header(tmp_path / "out")
    assert header is not None
    assert header.component == "transformer"

    theirs, ours = (realign(DiffusionPipeline.from_pretrained(folder)) for _ in range(2))
    if not hasattr(theirs, "load_lora_weights"):
        assert name == "pixart"  # diffusers has no LoRA loader for it
        return
    before = latents(theirs, name)
    theirs.load_lora_weights(tmp_path / "out")
    intaglio.load_adapter(ours.transformer, tmp_path / "out")
    with_lora = latents(theirs, name)
    assert not torch.allclose(with_lora, before, atol=1e-4), "the LoRA changed nothing"
    torch.testing.assert_close(latents(ours, name), with_lora, rtol=1e-3, atol=1e-4)


def latents(pipe, name):
    family = family_of_pipeline(type(pipe).__name__)
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        prompt=["a cup"],
        generator=[torch.Generator().manual_seed(0)],
        num_inference_steps=2,
        output_type="latent",
        **family.size_arguments(SIDES.get(name, PIXELS)),
    ).images


@pytest.mark.parametrize("name", FAMILIES)
def test_resume_goes_on_bit_for_bit(name, folder_of, photos, tmp_path):
    """Over an integer base with timestep intervals."""
    changes = {"method": "tuneqdm", "max_train_steps": 2, "checkpointing_steps": 1, "num_intervals": 4}
    base = recipe(folder_of(name), photos, tmp_path / "whole", name).model_dump(exclude_unset=True)
    base.pop("method")

    def run(out, **more):
        return Recipe.model_validate({**base, **changes, "output_dir": out, **more})

    fit(run(tmp_path / "whole"))
    fit(run(tmp_path / "part"))
    shutil.rmtree(tmp_path / "part" / "checkpoint-2")
    fit(run(tmp_path / "part", resume_from_checkpoint="latest"))
    whole, part = (load_file(find_file(tmp_path / each)) for each in ("whole", "part"))
    torch.testing.assert_close(part, whole, rtol=0, atol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_generate_without_an_adapter_is_the_pipelines_own_call(name, folder_of, tmp_path):
    side = SIDES.get(name, PIXELS)
    command = ["--pretrained_model_name_or_path", str(folder_of(name)), "--prompt", "a cup", "--seed", "3"]
    command += ["--num_inference_steps", "2", "--resolution", str(side), "--out", str(tmp_path)]
    done = CliRunner().invoke(generate, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    drawn = Image.open(next(path for path in tmp_path.glob("*.png") if path.name != "grid.png"))
    pipe = intaglio.load_pipeline(folder_of(name))
    family = family_of_pipeline(type(pipe).__name__)
    own = pipe(
        prompt=["a cup"],
        generator=[torch.Generator().manual_seed(3)],
        num_inference_steps=2,
        **family.size_arguments(side),
    ).images[0]
    assert drawn.tobytes() == own.tobytes()


@pytest.mark.parametrize("name", FAMILIES)
def test_trace_without_weights(name, folder_of, tmp_path):
    command = ["--pretrained_model_name_or_path", str(folder_of(name)), "--method", "tuneqdm", "--base", "int4"]
    command += ["--resolution", str(SIDES.get(name, PIXELS)), "--batch", "2", "--out", str(tmp_path / "trace.jsonl")]
    done = CliRunner().invoke(trace, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "grad_weight" in done.output
    assert "not understood" not in done.output


def test_distilled_models_and_odd_sides_are_refused():
    pipe = make_pipeline("flux2-klein")
    family = family_of_pipeline("Flux2KleinPipeline")
    with pytest.raises(UserError, match=r"resolution 18: FLUX\.2 takes sides of a multiple of 4"):
        family.check_side(pipe, 18)
    pipe.register_to_config(is_distilled=True)
    with pytest.raises(UserError, match=r"distilled to a few steps.*train on its base"):
        family.objective(pipe, ObjectiveOptions(), 16)
    for name, side in (("sd3", 18), ("flux", 18), ("z-image", 18), ("qwen-image", 18), ("krea2", 18), ("sana", 16)):
        pipe = pipeline_of(name)
        with pytest.raises(UserError, match=rf"resolution {side}: .* multiple of"):
            family_of_pipeline(type(pipe).__name__).check_side(pipe, side)
