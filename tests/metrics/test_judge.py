"""The judge: it learns a pairing, not a habit; it is saved with its card; mistakes name the way out."""

import json

import pytest
import torch

from intaglio.errors import UserError
from intaglio.metrics.encoders import judge as judges
from intaglio.metrics.encoders import load_encoder
from intaglio.metrics.encoders.judge import Judge, save_judge, train_heads
from intaglio.study.tasks.train_judge import is_heldout, real_scores


def pairs(count, seed):
    """Two views of one hidden cause through fixed random maps."""
    fixed, generator = torch.Generator().manual_seed(9), torch.Generator().manual_seed(seed)
    to_image, to_text = torch.randn(8, 20, generator=fixed), torch.randn(8, 12, generator=fixed)
    cause = torch.randn(count, 8, generator=generator)
    return cause @ to_image, cause @ to_text


@pytest.fixture(scope="module")
def heads():
    return train_heads(*pairs(600, 0), steps=120, batch_size=128)


def test_unseen_pictures_find_their_text_and_shuffled_ones_do_not(heads):
    scores = real_scores(heads, *pairs(50, 1))
    assert scores["recall_at_1"] > 0.7
    assert scores["recall_at_1_shuffled"] < 0.2
    assert scores["cosine"] > scores["cosine_shuffled"] + 0.5


def test_without_a_pairing_there_is_nothing_to_learn():
    image, text = pairs(600, 0)
    shuffled = text[torch.randperm(600, generator=torch.Generator().manual_seed(3))]
    blind = train_heads(image, shuffled, steps=40, batch_size=128)
    assert real_scores(blind, *pairs(50, 1))["recall_at_1"] < 0.2


def test_saved_and_loaded(heads, tmp_path, monkeypatch):
    image, text = pairs(5, 2)
    save_judge(heads, tmp_path, encoder="efficientnet-lite0", sentence_model=tmp_path, card={"real": {"cosine": 0.5}})
    stand_in = type("StandIn", (), {"features": lambda self, items: items})()
    monkeypatch.setattr(judges, "SentenceEncoder", lambda *a: stand_in)
    loaded = Judge(str(tmp_path), "cpu", lambda name, device: stand_in)
    assert loaded.name == f"judge:{tmp_path}"
    assert torch.equal(loaded.features(image), heads.image(image))
    assert torch.equal(loaded.text_features(text), heads.text(text))
    assert json.loads((tmp_path / "judge.json").read_text())["real"] == {"cosine": 0.5}


def test_a_missing_judge_names_the_way_out(tmp_path):
    with pytest.raises(UserError, match="Train a judge: intaglio study judge --out"):
        load_encoder(f"judge:{tmp_path}")
    with pytest.raises(ValueError, match="at least two: 1 and 2"):
        train_heads(torch.ones(2, 3), torch.ones(1, 3))


def test_one_concept_in_ten_is_held_out():
    labels = [f"thing {a}{b}" for a in "abcdefghij" for b in "klmnopqrst"]
    assert 5 <= sum(map(is_heldout, labels)) <= 15
