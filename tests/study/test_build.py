"""The benchmark folder: what is learned, what is held out, what the truth looks like."""

import hashlib
import importlib.util
import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from intaglio.config import Problems
from intaglio.data.photos import read_folder
from intaglio.errors import UnknownChoice, UserError
from intaglio.study.tasks.compose import compose, open_cutout, recolour
from intaglio.study.tasks.fetch import Packages
from intaglio.study.tasks.load import load_manifest
from intaglio.study.tasks.plan import load_plan, slug
from intaglio.study.tasks.wesnoth import farthest_first

ROOT = Path(__file__).parents[2]


def digest(manifest, files):
    return {hashlib.sha256(Image.open(manifest.folder / f).tobytes()).hexdigest() for f in files}


def test_kinds_and_selection(bench):
    assert [t.name for t in bench.select(("subject",))] == ["elf"]
    assert [t.name for t in bench.select(("subject:tuning", "style", "elf"))] == ["orc", "style-openmoji", "elf"]
    with pytest.raises(UnknownChoice, match=r"unknown task 'elv' \(did you mean 'elf'\?\)"):
        bench.select(("elv",))


def test_what_is_learned_and_what_is_held_out_never_meet(bench):
    for task in bench.tasks:
        learned = {f for files in task.learned.values() for f in files}
        heldout = {f for files in task.references.values() for f in files}
        assert learned
        assert heldout
        assert not digest(bench, learned) & digest(bench, heldout), task.name


def test_a_subject_has_five_poses_to_learn_and_its_own_picture_held_out(bench):
    task = bench.task("elf")
    assert len(task.learned["elf"]) == 5
    assert 5 <= len(task.references["elf"]) <= 7
    own = np.asarray(open_cutout(bench.folder / task.references["elf"][0]))
    assert (own == np.asarray(open_cutout(bench.folder / "gallery/wesnoth/elf.png"))).all()
    assert bench.galleries["wesnoth"]["elf"] == task.references["elf"][0]
    flash = (255, 255, 0)
    for files in (*task.learned.values(), *task.references.values()):
        assert all(open_cutout(bench.folder / f).getpixel((36, 5))[:3] != flash for f in files)


def test_photos_are_on_white_in_the_team_colour_and_the_trainer_reads_them(bench):
    task = bench.task("elf")
    photos = read_folder(bench.folder / task.train, prompt=task.instance_prompt)
    assert [p.caption for p in photos] == ["a photo of sks archer on a white background"] * 5
    pixels = np.asarray(Image.open(bench.folder / task.train / "00.png"))
    assert tuple(pixels[0, 0]) == (255, 255, 255)
    assert (pixels.reshape(-1, 3) == (255, 0, 0)).all(axis=1).sum() > 50  # the sash, in the game's red
    assert not (pixels.reshape(-1, 3) == (0xF4, 0x9A, 0xC1)).all(axis=1).any()


def test_several_subjects_have_identifiers_of_their_own(bench):
    task = bench.task("both")
    captions = [p.caption for p in read_folder(bench.folder / task.train, prompt=None)]
    assert (
        captions
        == ["a photo of sks archer on a white background"] * 5 + ["a photo of zwx orc on a white background"] * 5
    )
    assert {p.reference for p in task.prompts["colour"]} == {"elf", "orc"} == set(task.references)


def test_subjects_of_unlike_sources_share_a_task_and_a_gallery(bench):
    task = bench.task("cats")
    captions = {p.caption for p in read_folder(bench.folder / task.train, prompt=None)}
    assert captions == {f"a photo of {token} cat on a white background" for token in ("sks", "zwx")}
    assert set(task.references) == {"openmoji-cat", "noto-cat"} <= set(bench.galleries[str(task.gallery)])
    assert (task.kind, task.tuning, task.team_colour) == ("multi", False, None)


def test_terrain_prompts_name_terrain_and_team(bench):
    prompts = bench.task("elf").prompts["terrain"]
    assert prompts[0].text == "a photo of sks archer in red on grass"
    assert {(p.background, p.team_colour) for p in prompts} == {
        (t, c) for t in ("grass", "snow") for c in ("red", "blue")
    }


def test_a_style_is_drawn_on_concepts_that_were_not_learned(bench):
    task = bench.task("style-openmoji")
    assert not set(task.learned) & set(task.references)
    assert len(task.learned) == 3
    assert task.prompts["style"][0].text.startswith("a sks emoji of a thing ")
    assert all(p.reference in task.references for p in task.prompts["style"])


def test_the_folder_is_read_back_as_it_was_written(bench):
    assert load_manifest(bench.folder) == bench


def test_a_folder_that_is_no_benchmark_names_the_way_out(tmp_path):
    with pytest.raises(UserError, match="Build the tasks first: intaglio study build --out"):
        load_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        load_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"tasks": [], "task": 1}))
    with pytest.raises(Problems, match=r"unknown key 'task' \(did you mean 'tasks'\?\)"):
        load_manifest(tmp_path)


def test_recolour_by_hand():
    """The game's rule: (0x3F + 0 + 0x16) // 3 = 28 below the reference (0xF4 + 0x9A + 0xC1) // 3 = 197."""
    palette = ((0xF4, 0x9A, 0xC1), (0x3F, 0x00, 0x16), (0xFD, 0xE9, 0xF1))
    image = Image.new("RGBA", (4, 1), (*palette[0], 255))
    image.putpixel((1, 0), (*palette[1], 255))
    image.putpixel((2, 0), (*palette[2], 128))
    image.putpixel((3, 0), (0xF4, 0x9A, 0xC0, 255))  # one level beside the palette: stays
    out = recolour(image, palette, ((0, 0, 200), (255, 255, 255), (10, 0, 0)))
    light = (255 - 242) / (255 - 197)  # the mean of FD E9 F1 is 242
    assert out.getpixel((0, 0)) == (0, 0, 200, 255)
    assert out.getpixel((1, 0)) == (int((1 - 28 / 197) * 10), 0, int(28 / 197 * 200), 255)
    assert out.getpixel((2, 0)) == (
        int((1 - light) * 255),
        int((1 - light) * 255),
        int(light * 200 + (1 - light) * 255),
        128,
    )
    assert out.getpixel((3, 0)) == (0xF4, 0x9A, 0xC0, 255)


def test_compose_lays_a_cutout_on_a_colour_and_on_a_texture():
    cutout = Image.new("RGBA", (8, 4), (0, 0, 0, 0))
    cutout.putpixel((4, 2), (255, 0, 0, 255))
    laid = compose(cutout, (1, 2, 3), 8)
    assert (laid.size, laid.mode, laid.getpixel((0, 0)), laid.getpixel((4, 4))) == (
        (8, 8),
        "RGB",
        (1, 2, 3),
        (255, 0, 0),
    )
    texture = Image.new("RGB", (20, 20), (9, 9, 9))
    texture.putpixel((6, 6), (50, 60, 70))
    assert compose(cutout, texture, 8).getpixel((0, 0)) == (50, 60, 70)  # (20 - 8) / 2
    assert compose(cutout, Image.new("RGB", (2, 2), (7, 7, 7)), 16).size == (16, 16)


def test_farthest_first_takes_the_extremes_and_no_copies():
    points = np.array([[0.0], [1.0], [10.0], [10.0], [6.0]])
    assert farthest_first(points, 4) == [0, 2, 4, 1]
    assert farthest_first(points, 9) == [0, 2, 4, 1]  # the second 10 is a copy


def test_a_missing_package_manager_names_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="npm is missing: the benchmark's art comes from packages; install npm"):
        Packages(tmp_path).npm("left-pad@1.0.0")


def test_a_debian_package_is_unpacked_below_a_relative_cache(tmp_path, monkeypatch):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, script in (("apt-get", "echo archive > a_1.deb"), ("dpkg-deb", 'cp "$2" "$3/unpacked"')):
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    packages = Packages(Path("cache"))
    assert (packages.debian("a") / "unpacked").read_text() == "archive\n"
    assert packages.sources["a"].startswith("a_1.deb sha256:")


def test_another_archive_than_the_pinned_one_is_not_unpacked(tmp_path, monkeypatch):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, script in (("apt-get", "echo other > a_2.deb"), ("dpkg-deb", f"touch {tmp_path}/unpacked")):
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    with pytest.raises(UserError, match=r"a: a_2.deb has the SHA-256 [0-9a-f]{64}, expected abc\. "):
        Packages(tmp_path / "cache", {"a": "abc"}).debian("a")
    assert not (tmp_path / "unpacked").exists()
    assert not (tmp_path / "cache" / "a").exists()
    packages = Packages(tmp_path / "cache", {"a": hashlib.sha256(b"other\n").hexdigest()})
    assert packages.debian("a").is_dir()


def test_the_benchmark_agrees_with_the_hold_outs_of_the_base():
    """The base model must not have seen what the benchmark tests."""
    plan, holdout = load_plan(), tomllib.loads((ROOT / "pretrain/holdout.toml").read_text(encoding="utf-8"))
    assert {s.unit for s in plan.subjects} <= {u for line in holdout["wesnoth"]["lines"].values() for u in line}
    families = holdout["families"]
    assert all(set(families["words"]) & set(n.split()) for n in plan.families.train + plan.families.heldout)
    styles = (*plan.style_tasks.styles, *plan.style_tasks.tuning_styles)
    packages = {plan.styles[s].split("/")[1].rsplit("@", 1)[0] for s in styles}
    assert packages <= set(holdout["styles"]["heldout"])
    assert not packages & {p.split("/")[1] for p in holdout["styles"]["train"].values()}
    assert holdout["pybullet"]["objects"] == ["*"]


def cats(plan):
    return plan.families.styles + plan.families.tuning_styles


def test_the_plan_is_whole():
    plan = load_plan()
    table = [s for s in plan.subjects if not s.tuning]
    assert (len(table), len(plan.families.styles), len(plan.style_tasks.styles)) == (8, 4, 4)
    assert 4 <= len(plan.objects.models) <= 8
    tuning = {s.key: s.tuning for s in plan.subjects}
    tuning |= {f"{style}-cat": style in plan.families.tuning_styles for style in cats(plan)}
    tuning |= {f"object-{slug(noun)}": noun in plan.objects.tuning for noun in plan.objects.models}
    for group in plan.groups:
        assert {tuning[name] for name in group.tasks} == {group.tuning}, group.name
        assert len(group.tasks) <= len(plan.prompts.tokens)
    assert set(plan.sha256) == {*plan.styles.values(), plan.packages["emojibase"], plan.packages["minilm"]}
    assert set(plan.styles) | {"wesnoth", "pybullet", "minilm", "emojibase"} == set(plan.licences)
    colours = tomllib.loads((ROOT / "src/intaglio/assets/colours.toml").read_text())["backgrounds"]
    assert set(plan.prompts.colours) | set(plan.prompts.style_colours) <= set(colours)
    assert slug("Elvish Archer") == "elvish-archer"


@pytest.mark.skipif(importlib.util.find_spec("pybullet") is None, reason="pip install 'intaglio[study]'")
def test_an_object_is_seen_from_all_around():
    from intaglio.study.tasks.objects import render_views

    views = render_views("soccerball.urdf", 2, 20)
    assert [v.size for v in views] == [(256, 256)] * 2
    for view in views:
        left, top, right, _ = view.getchannel("A").getbbox()
        assert min(left, top) > 8
        assert 0.8 < (right - left) / 256 < 0.95
    assert np.abs(np.asarray(views[0], dtype=int) - np.asarray(views[1], dtype=int)).max() > 100
