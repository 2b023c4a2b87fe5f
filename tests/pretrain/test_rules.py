"""The written rules: what is held out never appears in a caption, and the pack holds what its rows say."""

import random
from pathlib import Path

import numpy as np
import pytest
from pretrain.captions import ASSETS, TEMPLATES, backgrounds, caption, draw_template, every_caption, with_article
from pretrain.concepts import (
    Concept,
    heldout_style,
    holdout,
    is_caption_concept,
    is_heldout_colour,
    is_heldout_family,
)
from pretrain.data import Pack, allowed_colours, load_pack, save_pack

STYLES = ("noto", "blob", "twemoji", "fxemoji")
LABELS = ["red apple", "octopus", "grapes", "lion", "bus", "sushi", "wolf", "lemon", "rocket", "train"]


def concept(label: str, subgroup: str = "food-fruit", group: str = "food-drink", styles=STYLES) -> Concept:
    return Concept(label, group, subgroup, dict.fromkeys(styles, label))


@pytest.mark.parametrize(
    ("label", "subgroup"),
    [
        ("cat", "animal-mammal"),
        ("cat face", "animal-mammal"),
        ("grinning cat", "cat-face"),
        ("monkey", "animal-mammal"),
        ("see-no-evil monkey", "monkey-face"),
        ("anything", "cat-face"),
    ],
)
def test_families_are_held_out_in_every_style(label, subgroup):
    assert is_heldout_family(label, subgroup)
    assert not is_caption_concept(concept(label, subgroup, "animals-nature"))


def test_a_word_inside_a_word_is_not_a_family():
    assert not is_heldout_family("caterpillar", "animal-bug")


def test_a_concept_needs_three_styles_and_a_chosen_group():
    assert is_caption_concept(concept("red apple"))
    assert is_caption_concept(concept("red apple", styles=STYLES[:3]))
    assert not is_caption_concept(concept("red apple", styles=STYLES[:2]))
    assert not is_caption_concept(concept("clown", "person-role", "people-body"))


def test_held_out_style_leaves_three_drawings():
    chosen = [heldout_style(concept(f"thing {number}")) for number in range(1000)]
    share = sum(style is not None for style in chosen) / len(chosen)
    assert 0.12 < share < 0.25  # four chances of 5 in 100
    assert set(chosen) == {None, *STYLES}
    assert all(heldout_style(concept(f"thing {number}", styles=STYLES[:3])) is None for number in range(100))


def test_white_is_never_held_out():
    assert all("white" in allowed_colours(label) for label in LABELS)


def test_captions_never_name_a_held_out_pair():
    rng = random.Random(0)
    for label in LABELS:
        for colour in allowed_colours(label):
            assert not is_heldout_colour(label, colour)
            text = caption(draw_template(rng), label, "food", "noto", colour)
            assert not any(f"{name} background" in text for name in backgrounds() if is_heldout_colour(label, name))


def test_a_template_without_colour_means_white():
    lines = every_caption([("red apple", "food", "noto")], {"red apple": ["white", "blue"]})
    assert "a noto emoji of a red apple on a blue background" in lines
    assert "a photo of a red apple" in lines
    assert len(lines) == sum(2 if "{colour}" in text else 1 for _, text in TEMPLATES)


def test_articles():
    assert [with_article(label) for label in LABELS[:5]] == ["a red apple", "an octopus", "grapes", "a lion", "a bus"]
    assert caption("on a {colour} background", "x", "x", "x", "orange") == "on an orange background"


def test_held_out_styles_are_not_trained():
    styles = holdout()["styles"]
    packages = {package.rsplit("/", 1)[1] for package in styles["train"].values()}
    assert tuple(styles["train"]) == STYLES
    assert packages.isdisjoint(styles["heldout"])


def test_cat_photos_follow_the_written_split():
    rule = holdout()["cat"]
    for split in ("train", "heldout"):
        names = {path.stem for path in (ASSETS / "cat" / split).glob("*.png")}
        assert names == {label.replace(" ", "-") for label in rule[split]}
    assert set(rule["train"]).isdisjoint(rule["heldout"])


def test_pack_round_trip(tmp_path: Path):
    rgba = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 4), dtype=np.uint8)
    roles = ["train", "heldout_style", "vae"]
    rows = [{"label": role, "category": "food", "style": "noto", "role": role} for role in roles]
    size_bytes = save_pack(Pack(rgba, rows), tmp_path / "pack.npz")
    loaded = load_pack(tmp_path / "pack.npz")
    assert size_bytes == (tmp_path / "pack.npz").stat().st_size
    assert np.array_equal(loaded.rgba, rgba)
    assert loaded.rows == rows
    assert loaded.captioned() == [0]
    assert loaded.autoencoded() == [0, 2]


def test_a_missing_pack_says_how_to_build_it(tmp_path: Path):
    with pytest.raises(SystemExit, match=r"is missing. Build it with: python -m pretrain.data --out"):
        load_pack(tmp_path / "none.npz")
