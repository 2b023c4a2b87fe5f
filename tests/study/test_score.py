"""Scores of images whose quality is known."""

import numpy as np
import pytest
import torch
from PIL import Image

from intaglio.metrics.registry import measure, metrics
from intaglio.metrics.scores import spread
from intaglio.metrics.shown import Shown
from intaglio.study.draw import Drawing, draw
from intaglio.study.show import show
from intaglio.study.truth import Truth

WORDS = {"red": (1.0, 0, 0), "blue": (0, 0, 1.0), "openmoji": (0, 1.0, 0), "noto": (1.0, 1.0, 0)}


class PixelEncoder:
    """8 x 8 levels, less their mean: enough to tell the fixture's drawings apart."""

    name = "pixels-8x8"

    def features(self, images):
        levels = [np.asarray(i.convert("RGB").resize((8, 8), Image.Resampling.BOX), dtype=np.float32) for i in images]
        flat = torch.from_numpy(np.stack(levels)).flatten(1)
        return flat - flat.mean(dim=1, keepdim=True)


class ColourReader(PixelEncoder):
    """Reads the colour words of a prompt, and the mean colour of an image."""

    def features(self, images):
        return torch.stack([torch.from_numpy(np.array(i)).float().mean(dim=(0, 1)) for i in images])

    def text_features(self, texts):
        return torch.tensor([next((v for w, v in WORDS.items() if w in t.split()), (1.0, 1, 1)) for t in texts])


@pytest.fixture(scope="module")
def truth(bench):
    return Truth(bench, PixelEncoder())


def drawn(truth, task, prompt_set, files_of, **mistakes):
    """What a generator would draw that copies the cut-outs `files_of(prompt)`, with `mistakes` in its background."""
    return [(p, truth.images(files_of(p), p.model_copy(update=mistakes), 64)) for p in task.prompts[prompt_set]]


def score_task(task, made, truth, text_encoder=None):
    return measure(Shown(show(task, made, truth, text_encoder), truth.encoder))


def test_a_perfect_generator(bench, truth):
    task = bench.task("elf")
    scores = score_task(task, drawn(truth, task, "colour", lambda p: task.references["elf"][1:]), truth)
    assert scores["identity"] == scores["identity_real"] > 0.5
    assert scores["background"] == scores["prompt"] == scores["prompt_real"] == 1
    assert scores["memorisation"] < 0
    assert scores["subject"] > scores["subject_real"] - 0.1


def test_a_generator_that_copies_its_training_images(bench, truth):
    task = bench.task("elf")
    scores = score_task(task, drawn(truth, task, "colour", lambda p: task.learned["elf"]), truth)
    assert scores["memorisation"] > 0
    assert scores["subject"] == pytest.approx(scores["subject_real"])


def test_a_generator_that_draws_another_subject(bench, truth):
    task, other = bench.task("elf"), bench.task("orc")
    wrong = score_task(task, drawn(truth, task, "colour", lambda p: other.references["orc"]), truth)
    right = score_task(task, drawn(truth, task, "colour", lambda p: task.references["elf"]), truth)
    assert wrong["identity"] == 0
    assert wrong["subject"] < right["subject"]


@pytest.mark.parametrize("prompt_set", ["colour", "terrain"])
def test_chosen_metrics_score_as_all_do(bench, truth, prompt_set):
    task = bench.task("elf")
    made = drawn(truth, task, prompt_set, lambda p: task.references["elf"])
    shown = Shown(show(task, made, truth), truth.encoder)
    whole = measure(shown)
    chosen = measure(shown, [m for m in metrics() if m.second], real=False)
    assert chosen == {name: whole[name] for name in ("subject", "identity")}


def test_a_generator_that_ignores_the_background(bench, truth):
    task = bench.task("elf")
    on_white = drawn(truth, task, "colour", lambda p: task.references["elf"], background="white")
    assert score_task(task, on_white, truth)["background"] == pytest.approx(1 / 3)  # white, red, blue


def test_terrain_and_team_colour_by_pixels(bench, truth):
    task = bench.task("elf")
    right = score_task(task, drawn(truth, task, "terrain", lambda p: task.references["elf"]), truth)
    assert (right["background"], right["team_colour"]) == (1, 1)
    swapped = drawn(truth, task, "terrain", lambda p: task.references["elf"], team_colour="red")
    assert score_task(task, swapped, truth)["team_colour"] == 0  # of the prompts that ask for another colour


def test_prompts_by_an_encoder_that_reads(bench, truth):
    task = bench.task("elf")
    red, blue = (next(p for p in task.prompts["colour"] if p.background == c) for c in ("red", "blue"))
    images = {c: [Image.new("RGB", (64, 64), v)] for c, v in (("red", (255, 0, 0)), ("blue", (0, 0, 255)))}
    right = score_task(task, [(red, images["red"]), (blue, images["blue"])], truth, ColourReader())
    wrong = score_task(task, [(red, images["blue"]), (blue, images["red"])], truth, ColourReader())
    assert right["prompt"] == pytest.approx(1)
    assert wrong["prompt"] == pytest.approx(0)


def test_style_by_an_encoder_that_reads(bench):
    task = bench.task("style-openmoji")
    prompts = task.prompts["style"][:2]
    green, yellow = Image.new("RGB", (8, 8), (0, 255, 0)), Image.new("RGB", (8, 8), (255, 255, 0))
    drawn = [(prompts[0], [green, yellow]), (prompts[1], [green])]
    both = [t.model_copy(update={"style": "noto"}) if t.name == "elf" else t for t in bench.tasks]
    truth = Truth(bench.model_copy(update={"tasks": tuple(both)}), PixelEncoder())
    scores = score_task(task, drawn, truth, ColourReader())
    assert scores["style"] == 0.75
    assert "style_real" in scores
    assert not {"subject_real", "memorisation", "fd_floor"} & set(scores)  # other things were learned
    assert "style" not in score_task(task, drawn, truth)  # nothing reads


def test_drift(truth):
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    red.putpixel((0, 0), (0, 0, 0))
    blue.putpixel((7, 7), (0, 0, 0))
    same = Shown((), truth.encoder, [red, blue], [red, blue])
    drift = [m for m in metrics() if m.name == "drift"]
    assert measure(same, drift)["drift"] == pytest.approx(0, abs=1e-6)
    assert measure(Shown((), truth.encoder, [red, blue], [blue, red]), drift)["drift"] > 0.5
    assert measure(Shown((), truth.encoder, [red, blue]), drift) == {}


def test_truth_is_encoded_once(bench, monkeypatch):
    task = bench.task("elf")
    prompt = task.prompts["colour"][0]
    first = Truth(bench, PixelEncoder()).features(task.references["elf"], prompt, 32)
    monkeypatch.setattr(PixelEncoder, "features", lambda self, images: pytest.fail("encoded again"))
    assert torch.equal(Truth(bench, PixelEncoder()).features(task.references["elf"], prompt, 32), first)


def test_noise_depends_on_the_place_alone():
    seen = []

    def pipeline(prompt, *, generator, **options):
        seen.extend(float(torch.randn(1, generator=g)) for g in generator)
        return type("Output", (), {"images": list(prompt)})()

    pipeline.set_progress_bar_config = lambda **_: None
    pipeline.unet = torch.nn.Identity()
    rows = draw(pipeline, ["a", "b", "c"], 10, Drawing(), "task")
    assert rows == [["a"] * 10, ["b"] * 10, ["c"] * 10]
    assert len(set(seen)) == 30
    first, seen[:] = list(seen), []
    draw(pipeline, ["x", "y"], 10, Drawing(), "task")
    assert seen == first[:20]
    seen.clear()
    draw(pipeline, ["x"], 1, Drawing(), "unrelated")
    assert seen[0] not in first


def test_spread():
    assert spread("abcdefghij", 5) == list("bdfhj")
    assert spread("abc", None) == spread("abc", 9) == list("abc")


def test_the_ceiling_is_of_real_pictures_through_the_autoencoder(bench, monkeypatch):
    from intaglio.study import evaluate

    monkeypatch.setattr(evaluate, "load_encoder", lambda name, device: PixelEncoder())
    monkeypatch.setattr(evaluate, "through_autoencoder", lambda pipeline, images: images)  # one that loses nothing
    monkeypatch.setattr(evaluate, "draw", lambda pipeline, texts, *rest: [[Image.new("RGB", (64, 64))]] * len(texts))
    scores = evaluate.Evaluator(bench, Drawing())(None, bench.task("elf"), "colour", ceiling=True).scores
    assert scores["subject_ceiling"] == pytest.approx(scores["subject_real"])
    assert scores["subject"] < scores["subject_ceiling"]


def test_the_distance_of_distributions_has_its_floor(bench, truth):
    task = bench.task("elf")
    copies = score_task(task, drawn(truth, task, "colour", lambda p: task.learned["elf"]), truth)
    assert copies["fd"] == pytest.approx(copies["fd_floor"])
    assert score_task(task, drawn(truth, task, "colour", lambda p: task.references["elf"]), truth)["fd"] < 1e-3
    other = score_task(task, drawn(truth, task, "colour", lambda p: bench.task("orc").references["orc"]), truth)
    assert other["fd"] > 2 * other["fd_floor"]
