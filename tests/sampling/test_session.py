"""A session draws what the pipeline draws when it is called by hand, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import intaglio
from intaglio.data.noise import step_generator
from intaglio.sampling.session import Session
from tiny_pipelines import make_pipeline

CALL = {"num_inference_steps": 2, "guidance_scale": 3.0}


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def pipeline(request):
    return make_pipeline(request.param)


@pytest.fixture(scope="module")
def sd():
    return make_pipeline("sd")


def same(first, second):
    assert len(first) == len(second)
    for one, two in zip(first, second, strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(two))


def test_images_of_prompts(pipeline):
    """One call a prompt; image i of each prompt from seed + i; the negative prompt for every image."""
    drawn = list(Session(pipeline).draw(["a cat", "a dog"], 7, count=2, negative_prompt="blue", **CALL))
    expected = []
    for prompt in ("a cat", "a dog"):
        generators = [torch.Generator().manual_seed(7 + i) for i in range(2)]
        expected += pipeline([prompt] * 2, generator=generators, negative_prompt=["blue"] * 2, **CALL).images
    same(drawn, expected)
    assert not np.array_equal(np.asarray(drawn[0]), np.asarray(drawn[1]))


def test_calls_that_go_over_prompts(sd):
    def noise(place, number):
        return step_generator(3, place, number, "task")

    drawn = list(Session(sd).draw(["a", "b", "c"], count=2, noise=noise, images_per_call=4, **CALL))
    texts = [["a", "a", "b", "b"], ["c", "c"]]
    places = [[(0, 0), (0, 1), (1, 0), (1, 1)], [(2, 0), (2, 1)]]
    expected = []
    for part, where in zip(texts, places, strict=True):
        expected += sd(part, generator=[noise(*each) for each in where], **CALL).images
    same(drawn, expected)


def test_prompts_that_are_encoded(pipeline):
    encoded = pipeline.encode_prompt("a cat", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)
    names = ["prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
    told = {name: value for name, value in zip(names, encoded, strict=False) if value is not None}

    def noise(place, number):
        return torch.Generator().manual_seed(number)

    drawn = list(Session(pipeline).draw([told | CALL], count=2, noise=noise))
    repeated = {name: value.repeat(2, *[1] * (value.ndim - 1)) for name, value in told.items()}
    same(drawn, pipeline(**repeated, generator=[noise(0, 0), noise(0, 1)], **CALL).images)
    same(drawn, list(Session(pipeline).draw(["a cat"], 0, count=2, **CALL)))


def test_each_image_comes_as_soon_as_it_is_there(sd, monkeypatch):
    calls = []
    call = type(sd).__call__
    monkeypatch.setattr(type(sd), "__call__", lambda self, *a, **k: calls.append(1) or call(self, *a, **k))
    images = Session(sd).draw(["a", "b"], **CALL)
    next(images)
    assert len(calls) == 1


def test_texts_and_tensors_do_not_mix(sd):
    with pytest.raises(TypeError, match="texts and tensors"):
        list(Session(sd).draw(["a", {"prompt_embeds": torch.zeros(1, 2, 3)}], images_per_call=2))


def test_adapters_one_after_another(tmp_path):
    """Values are replaced where the shape is the same, layers where it is not; None is the base."""
    expected = {}
    for name, method in {"a": intaglio.QLora(rank=2), "b": intaglio.QLora(rank=2), "c": intaglio.Peqa()}.items():
        pipe = make_pipeline("sd")
        adapter = intaglio.attach(pipe.unet, method)
        torch.manual_seed(ord(name))
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.mul_(1.5).add_(0.1 * torch.randn(parameter.shape))
        adapter.save(tmp_path / name)
        expected[name] = list(Session(pipe).draw(["x"], **CALL))
    session = Session(make_pipeline("sd"))
    handles = []
    for name in ("a", "b", "c", "a"):
        session.put(tmp_path / name)
        handles.append(session.adapter)
        same(list(session.draw(["x"], **CALL)), expected[name])
    assert handles[0] is handles[1], "the same shape: values alone"
    assert handles[1] is not handles[2]
    session.put(None)
    assert session.adapter is None


def test_the_denoiser_trains_on_after_drawing(sd):
    sd.unet.train()
    list(Session(sd).draw(["a"], **CALL))
    assert sd.unet.training
    sd.unet.eval()
